"""A Django project with Celery, as Celery's own guide lays it out."""

from __future__ import annotations

from tests.integration.django_site.celery import app

__all__ = ("app",)
