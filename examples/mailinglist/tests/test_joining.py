"""The way onto a list."""

from __future__ import annotations

import re

import pytest

from examples.mailinglist.conf import list_settings
from examples.mailinglist.handlers import lists
from examples.mailinglist.models import MailingList, Subscription
from mailapp.models import Delivery
from mailapp.registry import current_router
from mailapp.testing.post import Refused


def test_who_confirms_is_on_the_list(reader, news):
    reader.say("news-subscribe@localhost")
    confirmation = reader.expect("Please confirm: subscribe to The News")
    assert reader.state == "CONFIRMING_SUBSCRIBE"
    assert not news.has("reader@client.test")

    confirmation.respond("Yes")

    reader.expect("Welcome to The News", author="news-help@localhost")
    reader.expect_nothing()
    assert reader.state == "POSTING"
    assert news.has("reader@client.test")


def test_confirmation_can_be_answered_in_every_way(reader, news):
    reader.say("news-subscribe@localhost")

    confirmation = reader.expect("Please confirm")

    address = confirmation.answer_to
    assert re.fullmatch("news-confirm-[0-9a-f]{24}@localhost", address)
    assert confirmation.author == confirmation.sender == address
    assert address in confirmation.body()
    assert f'"mailto:{address}"' in confirmation.html()


def test_local_part_stays_within_what_smtp_allows(reader, settings):
    settings.MAILING_LISTS = {"CREATE_ON_SUBSCRIBE": True}
    name = "a" * 31

    reader.say(f"{name}-subscribe@localhost")
    confirmation = reader.expect("Please confirm")
    confirmation.respond()

    assert len(confirmation.answer_to.partition("@")[0]) == 64
    reader.expect("Welcome")


def test_name_that_leaves_no_room_for_the_token_is_refused(reader):
    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        reader.say(f"{'a' * 32}-subscribe@localhost")


def test_new_list_is_made_when_its_first_subscriber_confirms(reader, settings):
    settings.MAILING_LISTS = {"CREATE_ON_SUBSCRIBE": True}

    reader.say("test.list-subscribe@localhost")
    assert not MailingList.objects.exists()
    reader.expect("Please confirm").respond()

    reader.expect("Welcome to test.list")
    assert [each.address for each in MailingList.objects.all()] == ["test.list@localhost"]


@pytest.mark.parametrize("wish", ["subscribe", "unsubscribe", "help", f"confirm-{'0' * 24}"])
def test_list_that_is_new_and_may_not_be_made_is_unknown(reader, settings, wish):
    settings.MAILING_LISTS = {"CREATE_ON_SUBSCRIBE": False}

    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        reader.say(f"test.list-{wish}@localhost")

    assert not MailingList.objects.exists()


def test_misspelt_setting_is_an_error(settings):
    settings.MAILING_LISTS = {"CREATE": True}

    with pytest.raises(TypeError, match="CREATE"):
        list_settings()


def test_closed_list_takes_nobody_by_mail(reader, news):
    MailingList.objects.update(is_open=False)

    reader.say("news-subscribe@localhost")

    reader.expect("The News is closed")
    assert reader.state == "START"


def test_who_asks_again_gets_a_new_address_and_the_old_one_is_good_no_more(reader, news):
    reader.say("news-subscribe@localhost")
    reader.say("news-subscribe@localhost")
    first, second = reader.expect_all(2, "Please confirm")

    first.respond()
    reader.expect("This confirms nothing")
    assert reader.state == "CONFIRMING_SUBSCRIBE"

    second.respond()
    reader.expect("Welcome")


def test_confirmation_works_once(reader, news):
    reader.say("news-subscribe@localhost")
    confirmation = reader.expect("Please confirm")
    confirmation.respond()
    reader.expect("Welcome")

    confirmation.respond()

    reader.expect("This confirms nothing")
    assert reader.state == "POSTING"
    assert Subscription.objects.count() == 1


def test_confirmation_of_somebody_else_changes_nothing(reader, news, person):
    reader.say("news-subscribe@localhost")
    confirmation = reader.expect("Please confirm")
    other = person("other@client.test")

    other.say(confirmation.answer_to)

    other.expect("This confirms nothing")
    assert other.state == "START"
    assert reader.state == "CONFIRMING_SUBSCRIBE"
    assert not Subscription.objects.exists()


def test_confirmation_of_somebody_else_changes_nothing_for_one_who_was_asked_too(
    reader, news, person
):
    other = person("other@client.test")
    other.say("news-subscribe@localhost")
    reader.say("news-subscribe@localhost")

    other.say(reader.expect("Please confirm").answer_to)

    other.expect("This confirms nothing")
    other.expect("Please confirm").respond()
    other.expect("Welcome")


def test_confirmation_of_another_list_changes_nothing(reader, news):
    MailingList.objects.create(name="views", host="localhost")
    reader.say("news-subscribe@localhost")
    address = reader.expect("Please confirm").answer_to

    reader.say(address.replace("news", "views"))

    reader.expect("This confirms nothing")
    assert not Subscription.objects.exists()


def test_confirmation_expires_and_nothing_more_is_said(reader, news, mail):
    reader.say("news-subscribe@localhost")
    confirmation = reader.expect("Please confirm", body="within 72 hours")

    mail.later(hours=72)

    reader.expect_nothing()
    assert reader.state == "START"
    confirmation.respond()
    reader.expect("This confirms nothing")
    assert not Subscription.objects.exists()


def test_confirmation_is_good_until_it_expires(reader, news, mail):
    reader.say("news-subscribe@localhost")

    mail.later(hours=71, minutes=59)

    reader.expect("Please confirm").respond()
    reader.expect("Welcome")
    mail.later(days=30)
    assert reader.state == "POSTING"


def test_who_asks_again_has_all_of_the_time_again(reader, news, mail):
    reader.say("news-subscribe@localhost")
    mail.later(hours=48)
    reader.say("news-subscribe@localhost")
    mail.later(hours=48)

    _, second = reader.expect_all(2, "Please confirm")
    second.respond()

    reader.expect("Welcome")


def test_letter_case_of_a_confirmation_does_not_matter(reader, news):
    reader.say("News-Subscribe@LOCALHOST")
    confirmation = reader.expect("Please confirm")

    reader.say(confirmation.answer_to.upper())

    reader.expect("Welcome")


def test_automatic_answer_confirms_nothing(reader, news):
    reader.say("news-subscribe@localhost")
    confirmation = reader.expect("Please confirm")

    reader.say(confirmation.answer_to, headers={"Auto-Submitted": "auto-replied"})

    reader.expect_nothing()
    assert reader.state == "CONFIRMING_SUBSCRIBE"
    dropped = Delivery.objects.get(recipient=confirmation.answer_to)
    assert dropped.status == Delivery.Status.DONE
    assert dropped.reply == "Dropped: a machine sent it"


def test_who_is_on_the_list_is_told_so(subscriber):
    member = subscriber()

    member.say("news-subscribe@localhost")

    member.expect("You are on The News already")
    assert member.state == "POSTING"


def test_person_has_a_conversation_with_each_list(subscriber):
    MailingList.objects.create(name="views", host="localhost")
    member = subscriber()

    member.say("views-subscribe@localhost")

    assert member.state_with(lists, "news@localhost") == "POSTING"
    assert member.state_with(lists, "views@localhost") == "CONFIRMING_SUBSCRIBE"


def test_subscriber_whom_an_operator_removed_may_come_back(subscriber):
    member = subscriber()
    Subscription.objects.all().delete()

    member.say("news-subscribe@localhost")

    member.expect("Please confirm").respond()
    member.expect("Welcome")
    assert member.state == "POSTING"


def test_list_does_not_get_onto_a_list(person, news):
    itself = person("news@localhost")

    itself.say("news-subscribe@localhost")

    itself.expect_nothing()
    assert Delivery.objects.get().reply == "Dropped: its sender is a list"


@pytest.mark.parametrize("recipient", ["postmaster@localhost", "abuse@localhost"])
@pytest.mark.django_db
def test_addresses_that_every_host_has_are_no_lists(recipient):
    handlers = {match.handler.name for match in current_router(max_age=0).matches(recipient)}

    assert "examples.mailinglist.handlers.lists" not in handlers


def test_example_of_the_handler_is_taken():
    assert lists.example == "test.list-subscribe@localhost"
