"""How a database is filled for the benchmarks."""

import pytest

from benchmarks.fill import fill
from mailapp.models import INCOMING, Delivery, Message, NewMail

COUNT = 60

pytestmark = pytest.mark.django_db(transaction=True, reset_sequences=True)


def test_it_holds_different_mails_that_are_done():
    fill(COUNT)

    messages = Message.objects.select_related("raw_message")
    assert len({message.message_id for message in messages}) == COUNT
    assert all(message.size == len(message.raw) for message in messages)
    assert Delivery.objects.filter(status=Delivery.Status.DONE).count() == COUNT
    assert not Delivery.objects.filter(queue=INCOMING).due().exists()


def test_it_takes_more_mail():
    fill(COUNT)

    Message.objects.store([NewMail(raw=b"", sender="", recipients=["note@localhost"])])

    assert Message.objects.count() == Delivery.objects.count() == COUNT + 1
