"""Importing this module configures Django, of which django-anymail needs only a few classes and no project."""

from __future__ import annotations

from django.conf import settings

if not settings.configured:
    # The options of each service are given to anymail's classes, and nothing is read from here.
    settings.configure(ANYMAIL={})
