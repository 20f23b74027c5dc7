"""A thousand jobs against a service that is down for ten seconds, retried in four ways."""
