"""Conversations and their history. States move in `mailapp.dispatch` alone."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connections, models
from django.utils import timezone

from mailapp.errors import ConversationMoved
from mailapp.mime import visible
from mailapp.routing import START

from .handler import Handler
from .insert import insert
from .reading import read

_IDENTITY = ("handler_id", "person", "key")
_CHANGES = ("state", "data", "version", "updated_at")

# The ORM takes several times as long to word it as a database to run it, for each batch of mail.
_WITHOUT_KEY = "SELECT * FROM mailapp_conversation WHERE person IN ({ids}) AND key = ''"


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def read_without_key(self, people: Collection[Any]) -> Collection[Conversation]:
        """Return these people's conversations under no key."""
        return read(self, _WITHOUT_KEY, people).values()

    def store(self, conversations: Sequence[Conversation], now: datetime) -> None:
        """Write conversations as they are `now`, each one version further, in one statement.

        Raise ConversationMoved if one is no longer as it was read, or is there though it was not.
        """
        for each in conversations:
            each.version += 1
            each.updated_at = now
        upsert = insert(Conversation, ("created_at", *_IDENTITY, *_CHANGES), self.db)
        keys = upsert.returning_keys(self._rows(conversations, now), self._unmoved())
        if len(keys) < len(conversations):
            raise ConversationMoved(f"{len(conversations) - len(keys)} of {len(conversations)}")
        for conversation, key in zip(conversations, keys, strict=True):
            if conversation.pk not in (None, key):  # removed and made again meanwhile
                raise ConversationMoved(str(conversation))
            conversation.pk = key

    def _rows(
        self, conversations: Sequence[Conversation], now: datetime
    ) -> list[tuple[object, ...]]:
        stamp = connections[self.db].ops.adapt_datetimefield_value
        updated_at = stamp(now)
        return [
            (
                stamp(each.created_at),
                each.handler_id,
                each.person,
                each.key,
                each.state,
                json.dumps(each.data),
                each.version,
                updated_at,
            )
            for each in conversations
        ]

    def _unmoved(self) -> str:
        """The clause by which a row that is there is changed if it is still as it was read.

        When it was made is part of that: two who begin the same conversation do not both win.
        """
        quote = connections[self.db].ops.quote_name
        identity = ", ".join(map(quote, _IDENTITY))
        changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in _CHANGES)
        table = quote(Conversation._meta.db_table)
        return (
            f"ON CONFLICT ({identity}) DO UPDATE SET {changes} "
            f"WHERE {table}.version = excluded.version - 1 "
            f"AND {table}.created_at = excluded.created_at"
        )


class Conversation(models.Model):
    """One person with one handler under one key.

    The state is the name of the state function that takes the next mail. A person in
    START who never left it has no row.
    """

    handler = models.ForeignKey(Handler, on_delete=models.PROTECT, related_name="conversations")
    person = models.CharField(max_length=320, help_text="The folded sender.")
    key = models.CharField(max_length=255, blank=True)
    state = models.CharField(max_length=100, default=START)
    data = models.JSONField(default=dict, blank=True, help_text="What the handler keeps.")
    version = models.PositiveIntegerField(default=0, help_text="Counts the changes of this row.")
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    objects = ConversationQuerySet.as_manager()

    class Meta:
        permissions = [("move_conversation", "Can move conversation to another state")]
        constraints = [
            # The person first, whose conversations are then found without an index of their own.
            models.UniqueConstraint(
                fields=["person", "handler", "key"], name="mailapp_one_conversation_per_key"
            )
        ]

    def __str__(self) -> str:
        return f"{visible(self.person)}: {self.state}"


class Transition(models.Model):
    """One move of a conversation: caused by what, from where, to where, when, how long."""

    class Cause(models.TextChoices):
        MAIL = "mail"
        OPERATOR = "operator"
        TIMER = "timer"
        ERROR = "error"

    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="transitions"
    )
    cause = models.CharField(max_length=16, choices=Cause, default=Cause.MAIL)
    delivery = models.ForeignKey(
        "mailapp.Delivery", on_delete=models.SET_NULL, null=True, related_name="transitions"
    )
    operator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, db_index=False
    )
    from_state = models.CharField(max_length=100)
    to_state = models.CharField(max_length=100)
    at = models.DateTimeField(default=timezone.now)
    duration = models.FloatField(default=0, help_text="Seconds that the state function ran.")

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(
                fields=["operator"],
                condition=models.Q(operator__isnull=False),
                name="mailapp_moved_by",  # or to remove a user would read the table
            )
        ]

    def __str__(self) -> str:
        return f"{self.from_state} → {self.to_state}"
