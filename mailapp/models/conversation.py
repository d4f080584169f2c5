"""Conversations and their history. States move in `mailapp.dispatch` alone."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from mailapp.mime import visible
from mailapp.routing import START

from .handler import Handler


class Conversation(models.Model):
    """One person with one handler under one key.

    The state is the name of the state function that takes the next mail. A person in
    START who never left it has no row.
    """

    handler = models.ForeignKey(Handler, on_delete=models.PROTECT, related_name="conversations")
    person = models.CharField(max_length=320, db_index=True, help_text="The folded sender.")
    key = models.CharField(max_length=255, blank=True)
    state = models.CharField(max_length=100, default=START)
    data = models.JSONField(default=dict, blank=True, help_text="What the handler keeps.")
    version = models.PositiveIntegerField(default=0, help_text="Counts the changes of this row.")
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        permissions = [("move_conversation", "Can move conversation to another state")]
        constraints = [
            models.UniqueConstraint(
                fields=["handler", "person", "key"], name="mailapp_one_conversation_per_key"
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
    operator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    from_state = models.CharField(max_length=100)
    to_state = models.CharField(max_length=100)
    at = models.DateTimeField(default=timezone.now)
    duration = models.FloatField(default=0, help_text="Seconds that the state function ran.")

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.from_state} → {self.to_state}"
