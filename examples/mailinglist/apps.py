"""The Django app."""

from django.apps import AppConfig


class MailingListConfig(AppConfig):
    name = "examples.mailinglist"
    label = "mailinglist"
    verbose_name = "Mailing lists"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from mailapp.unsubscribing import unsubscribed

        from .leaving import take_off

        unsubscribed.connect(take_off)
