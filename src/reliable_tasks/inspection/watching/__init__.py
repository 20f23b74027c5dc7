"""What workers and queues do at the moment: `celery -A proj reliable watch`."""
