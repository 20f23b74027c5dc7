from __future__ import annotations

import os

from celery import Celery

from reliable_tasks import close_on_shutdown

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.django_site.settings")

app = Celery("site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

if "DJANGO_SITE_CLOSES" in os.environ:
    close_on_shutdown("django")
