"""The settings of the mailing lists: `settings.MAILING_LISTS`, read here alone."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """Raise TypeError for an unknown key."""

    CREATE_ON_SUBSCRIBE: bool = False  #: who subscribes to a list that is new makes it
    CONFIRM_HOURS: float = 72  #: how long a confirmation may take


def list_settings() -> ListSettings:
    """Return the settings with their defaults."""
    return ListSettings(**getattr(settings, "MAILING_LISTS", {}))
