"""What `Message.objects.store` writes, and how little it costs."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models
from pytest_django import DjangoAssertNumQueries

from mailapp.models import INCOMING, Delivery, Message, NewMail, RawMessage

pytestmark = pytest.mark.django_db


def _mail(number: int = 0, **fields: Any) -> NewMail:
    raw = b"Subject: Hello %d\r\nMessage-ID: <%d@client.test>\r\n\r\nHello.\r\n" % (number, number)
    defaults: dict[str, Any] = {
        "raw": raw,
        "sender": "Reader@Client.test",
        "recipients": ["you@example.com"],
        "protocol": "ESMTP",
    }
    return NewMail(**(defaults | fields))


def _columns(row: models.Model) -> dict[str, Any]:
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


def test_what_is_returned_is_what_was_stored() -> None:
    cause = Delivery.objects.get(message=Message.objects.store([_mail(0)])[0])

    stored = Message.objects.store([_mail(1), _mail(2, sender="", cause=cause.pk)])

    assert [_columns(message) for message in stored] == [
        _columns(message) for message in Message.objects.order_by("id")[1:]
    ]


def test_a_delivery_has_the_defaults_of_its_model() -> None:
    [message] = Message.objects.store([_mail()])

    delivery = message.deliveries.get()
    fresh = Delivery(
        id=delivery.id,
        message=message,
        queue_id=INCOMING,
        recipient="you@example.com",
        person="reader@client.test",
        created_at=message.created_at,
        due_at=message.created_at,
    )
    assert _columns(delivery) == _columns(fresh)


def test_each_message_keeps_its_own_bytes_and_recipients() -> None:
    mails = [_mail(number, recipients=[f"{number}@example.com"]) for number in range(600)]

    stored = Message.objects.store(mails)

    for mail, message in zip(mails[::97], stored[::97], strict=True):
        message = Message.objects.get(pk=message.pk)
        assert message.raw == mail.raw
        assert [each.recipient for each in message.deliveries.all()] == mail.recipients


def test_ten_thousand_recipients_are_one_message() -> None:
    recipients = [f"{number}@example.com" for number in range(10_000)]

    [message] = Message.objects.store([_mail(recipients=recipients)])

    assert list(message.deliveries.order_by("id").values_list("recipient", flat=True)) == recipients


def test_a_group_costs_one_statement_for_each_table(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    with django_assert_num_queries(3):
        Message.objects.store([_mail(number) for number in range(50)])


def test_a_mail_that_is_in_the_storage_already_is_not_copied() -> None:
    [message] = Message.objects.store([_mail(file="2026/01/01/mail.eml", file_size=12345)])

    row = RawMessage.objects.get(message=message)
    assert (row.content, row.file) == (None, "2026/01/01/mail.eml")
    assert message.size == 12345
