"""What speaks to other libraries, one module each; nothing else imports them."""
