"""What `Message.objects.store` writes, and how little it costs."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection, models
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


def test_the_keys_come_in_the_order_of_the_mails() -> None:
    keys = Message.objects.store([_mail(number) for number in range(20)])

    assert [Message.objects.get(pk=key).subject for key in keys] == [
        f"Hello {number}" for number in range(20)
    ]


def test_a_message_has_what_was_stored() -> None:
    [cause] = Message.objects.store([_mail(0)])
    cause = Delivery.objects.get(message=cause)

    [key] = Message.objects.store([_mail(1, sender="", cause=cause.pk, peer="192.0.2.1")])

    message = Message.objects.get(pk=key)
    fresh = Message(
        id=key,
        created_at=message.created_at,
        size=len(_mail(1).raw),
        protocol="ESMTP",
        peer="192.0.2.1",
        subject="Hello 1",
        message_id="<1@client.test>",
        cause=cause,
    )
    assert _columns(message) == _columns(fresh)


def test_a_delivery_has_the_defaults_of_its_model() -> None:
    [key] = Message.objects.store([_mail()])

    message = Message.objects.get(pk=key)
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

    keys = Message.objects.store(mails)

    for mail, key in zip(mails[::97], keys[::97], strict=True):
        message = Message.objects.get(pk=key)
        assert message.raw == mail.raw
        assert [each.recipient for each in message.deliveries.all()] == mail.recipients


def test_ten_thousand_recipients_are_one_message() -> None:
    recipients = [f"{number}@example.com" for number in range(10_000)]

    [key] = Message.objects.store([_mail(recipients=recipients)])

    deliveries = Delivery.objects.filter(message=key).order_by("id")
    assert list(deliveries.values_list("recipient", flat=True)) == recipients


def test_a_group_costs_one_statement_for_each_table_and_on_postgresql_one_in_all(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    with django_assert_num_queries(1 if connection.vendor == "postgresql" else 3):
        Message.objects.store([_mail(number) for number in range(50)])


def test_a_mail_that_is_in_the_storage_already_is_not_copied() -> None:
    [key] = Message.objects.store([_mail(file="2026/01/01/mail.eml", file_size=12345)])

    message = Message.objects.get(pk=key)
    row = RawMessage.objects.get(message=message)
    assert (row.content, row.file) == (None, "2026/01/01/mail.eml")
    assert message.size == 12345


def test_large_mails_are_kept_apart_by_a_storage_that_overwrites(settings, tmp_path):
    settings.STORAGES = {
        **settings.STORAGES,
        "mail": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": tmp_path, "allow_overwrite": True},
        },
    }
    settings.MAIL = {**settings.MAIL, "INLINE_SIZE": 10}
    mails = [_mail(number) for number in range(2)]

    keys = Message.objects.store(mails)

    assert [Message.objects.get(pk=key).raw for key in keys] == [mail.raw for mail in mails]
