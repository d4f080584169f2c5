"""What the worker does with a mail to `talk`, written by hand with the ORM: a transaction each."""

from __future__ import annotations

import email
import email.policy

from django.core.mail import EmailMessage
from django.db import transaction
from django.template.loader import render_to_string
from django.utils import timezone

from mailapp.models import (
    INCOMING,
    OUTGOING,
    Attempt,
    Conversation,
    Delivery,
    Handler,
    Message,
    RawMessage,
    Transition,
)


def drain() -> None:
    """Work everything that is due."""
    handler = Handler.objects.get(module="benchmarks.handlers")
    for pk in list(Delivery.objects.filter(queue=INCOMING).due().values_list("pk", flat=True)):
        with transaction.atomic():
            work(Delivery.objects.select_related("message__raw_message").get(pk=pk), handler)


def work(delivery: Delivery, handler: Handler) -> None:
    """Flip the state of one conversation, answer, and note the end of the delivery."""
    began = timezone.now()
    mail = email.message_from_bytes(delivery.message.raw, policy=email.policy.compat32)
    conversation, _ = Conversation.objects.get_or_create(
        handler=handler, person=delivery.person, key=""
    )
    before = conversation.state
    conversation.state = "TALKING" if before == "START" else "START"
    conversation.version += 1
    conversation.save()
    Transition.objects.create(
        conversation=conversation,
        delivery=delivery,
        from_state=before,
        to_state=conversation.state,
    )
    answer(delivery, mail["Subject"], mail["From"])
    Attempt.objects.create(
        delivery=delivery,
        number=1,
        started_at=began,
        ended_at=timezone.now(),
        outcome=Delivery.Status.DONE,
    )
    delivery.status, delivery.due_at, delivery.handler = Delivery.Status.DONE, None, handler
    delivery.attempts = 1
    delivery.save()


def answer(delivery: Delivery, subject: str, author: str | None) -> None:
    """Store an answer from a template."""
    context = {"recipient": delivery.recipient, "author": author}
    composed = EmailMessage(
        subject=f"Re: {subject}",
        body=render_to_string("benchmarks/answer.txt", context),
        from_email=delivery.recipient,
        to=[delivery.message.sender],
        headers={"Auto-Submitted": "auto-replied"},
    ).message()
    raw = composed.as_bytes()
    message = Message.objects.create(
        sender=delivery.recipient,
        size=len(raw),
        subject=composed["Subject"],
        author=composed["From"],
        message_id=composed["Message-ID"],
        cause=delivery,
    )
    RawMessage.objects.create(message=message, content=raw)
    now = timezone.now()
    Delivery.objects.create(
        message=message,
        queue_id=OUTGOING,
        recipient=delivery.message.sender,
        created_at=now,
        due_at=now,
    )
