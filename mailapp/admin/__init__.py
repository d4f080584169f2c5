"""The operator's pages in Django's admin: they show everything and write little."""

from . import (
    conversations,
    deliveries,
    handlers,
    messages,
    processes,
    queues,
    suppressions,
    timers,
)

__all__ = [
    "conversations",
    "deliveries",
    "handlers",
    "messages",
    "processes",
    "queues",
    "suppressions",
    "timers",
]
