"""The Django app."""

from django.apps import AppConfig


class MailAppConfig(AppConfig):
    name = "mailapp"
    verbose_name = "Mail"
    default_auto_field = "django.db.models.BigAutoField"
