"""How a database is filled for the benchmarks, and what they post."""

import pytest

from benchmarks.fill import fill
from benchmarks.post import post_one_by_one, post_to_list
from mailapp import housekeeping
from mailapp.models import INCOMING, OUTGOING, Conversation, Delivery, Message, NewMail

COUNT = 60
HANDLER = "mailapp.handlers.log"

pytestmark = pytest.mark.django_db(transaction=True, reset_sequences=True)


def test_it_holds_different_mails_that_are_done():
    fill(COUNT, HANDLER)

    messages = Message.objects.select_related("raw_message")
    assert len({message.message_id for message in messages}) == COUNT
    assert all(message.size == len(message.raw) for message in messages)
    assert Delivery.objects.filter(status=Delivery.Status.DONE).count() == COUNT
    assert not Delivery.objects.filter(queue=INCOMING).due().exists()
    assert Conversation.objects.values("person").distinct().count() == COUNT


def test_what_was_done_long_ago_is_removed():
    fill(COUNT, HANDLER, days=40)

    removed = housekeeping.clean()

    assert removed["deliveries"] == COUNT
    assert not Message.objects.exists()


def test_it_takes_more_mail():
    fill(COUNT, HANDLER)

    Message.objects.store([NewMail(raw=b"", sender="", recipients=["note@localhost"])])

    assert Message.objects.count() == Delivery.objects.count() == COUNT + 1


@pytest.mark.parametrize(("way", "messages"), [(post_to_list, 1), (post_one_by_one, COUNT)])
def test_each_reader_is_posted_to_once(way, messages):
    readers = [f"{number}@client.test" for number in range(COUNT)]

    way(readers)

    posted = Delivery.objects.filter(queue=OUTGOING).due()
    assert sorted(posted.values_list("recipient", flat=True)) == sorted(readers)
    assert Message.objects.count() == messages
