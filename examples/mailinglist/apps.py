"""The Django app."""

from django.apps import AppConfig


class MailingListConfig(AppConfig):
    name = "examples.mailinglist"
    label = "mailinglist"
    verbose_name = "Mailing lists"
    default_auto_field = "django.db.models.BigAutoField"
