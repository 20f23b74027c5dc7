from __future__ import annotations

from django.db import models


class Order(models.Model):
    """What a task leaves behind."""

    label = models.CharField(max_length=40, unique=True)
    backend = models.IntegerField()
