"""The Django app."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class MailAppConfig(AppConfig):
    name = "mailapp"
    verbose_name = "Mail"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from mailapp import checks, registry  # noqa: F401 - to import checks registers them

        post_migrate.connect(registry.sync, sender=self, dispatch_uid="mailapp.registry")
