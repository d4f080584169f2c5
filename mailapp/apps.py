"""The Django app."""

from typing import Any

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class MailAppConfig(AppConfig):
    name = "mailapp"
    verbose_name = "Mail"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from mailapp import checks  # noqa: F401 - to import checks registers them

        post_migrate.connect(_sync_handlers, sender=self, dispatch_uid="mailapp.registry")


def _sync_handlers(**kwargs: Any) -> None:
    from mailapp import registry

    migrated = kwargs.get("apps", apps)
    if "queue" in migrated.all_models["mailapp"]:  # not after `migrate mailapp zero`
        registry.sync()
