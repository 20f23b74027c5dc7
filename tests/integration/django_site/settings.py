"""Settings of the project: the test that starts it says which database, and how it is reached."""

from __future__ import annotations

import json
import os

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["tests.integration.django_site.orders"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": json.loads(os.environ["DJANGO_SITE_DATABASE"])}

CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
