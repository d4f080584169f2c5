"""The way off a list, and out of trouble."""

from __future__ import annotations

import pytest

from examples.mailinglist.models import Subscription
from mailapp.models import Conversation, Transition
from mailapp.testing.post import HandlerFailed


def test_who_confirms_is_off_the_list(subscriber, news):
    member = subscriber()

    member.say("news-unsubscribe@localhost")
    assert member.state == "CONFIRMING_UNSUBSCRIBE"
    assert news.has(member.address)
    member.expect("Please confirm: unsubscribe from The News").respond()

    member.expect("You have left The News")
    member.expect_nothing()
    assert member.state == "START"
    assert not news.has(member.address)


def test_history_tells_the_whole_story(subscriber):
    member = subscriber()
    member.say("news-unsubscribe@localhost")
    member.expect("Please confirm").respond()

    moves = Transition.objects.values_list("from_state", "to_state")

    assert list(moves) == [
        ("START", "CONFIRMING_SUBSCRIBE"),
        ("CONFIRMING_SUBSCRIBE", "POSTING"),
        ("POSTING", "CONFIRMING_UNSUBSCRIBE"),
        ("CONFIRMING_UNSUBSCRIBE", "START"),
    ]
    assert Conversation.objects.get().data == {}


def test_who_left_gets_no_more_posts_and_may_come_back(subscriber):
    member, other = subscriber("you@example.com"), subscriber("other@client.test")
    member.say("news-unsubscribe@localhost")
    member.expect("Please confirm").respond()
    member.expect("You have left")

    other.say("news@localhost", subject="Good news")
    member.expect_nothing()

    member.say("news-subscribe@localhost")
    member.expect("Please confirm: subscribe").respond()
    member.expect("Welcome")


def test_until_it_is_confirmed_one_is_on_the_list(subscriber):
    member = subscriber()
    member.say("news-unsubscribe@localhost")

    member.say("news@localhost", subject="Good news")
    member.say("news-subscribe@localhost")

    member.expect("Good news")
    member.expect("You are on The News already")
    member.expect("Please confirm: unsubscribe").respond()
    member.expect("You have left")


def test_who_does_not_confirm_in_time_stays_on_the_list_and_is_told(subscriber, mail, news):
    member = subscriber()
    member.say("news-unsubscribe@localhost")
    confirmation = member.expect("Please confirm: unsubscribe")

    mail.later(days=3)

    member.expect("You are still on The News", author="news-help@localhost")
    assert member.state == "POSTING"
    confirmation.respond()
    member.expect("This confirms nothing")
    assert news.has(member.address)


def test_member_of_a_list_that_is_gone_is_told_nothing(subscriber, mail, news):
    member = subscriber()
    member.say("news-unsubscribe@localhost")
    member.read_all()
    news.delete()

    mail.later(days=3)

    member.expect_nothing()
    assert member.state == "POSTING"


def test_confirmation_to_get_on_the_list_does_not_lead_off_it(reader, news):
    reader.say("news-subscribe@localhost")
    joining = reader.expect("Please confirm: subscribe")
    joining.respond()
    reader.expect("Welcome")
    reader.say("news-unsubscribe@localhost")

    joining.respond()

    reader.expect("This confirms nothing")
    assert news.has(reader.address)


def test_who_is_not_on_the_list_is_told_so(reader, news):
    reader.say("news-unsubscribe@localhost")

    reader.expect("You are not on The News", body="nothing to do")
    assert reader.state == "START"


def test_subscriber_added_by_an_operator_may_leave(reader, news):
    news.subscribe(reader.address)

    reader.say("news-unsubscribe@localhost")

    reader.expect("Please confirm").respond()
    reader.expect("You have left")


def test_subscriber_removed_meanwhile_is_told_that_he_is_not_on_the_list(subscriber):
    member = subscriber()
    member.say("news-unsubscribe@localhost")
    Subscription.objects.all().delete()

    member.say("news-unsubscribe@localhost")

    member.expect("You are not on The News")
    assert member.state == "START"


def test_person_is_told_of_a_mail_that_failed_for_good_and_goes_on(subscriber, mail, news):
    member = subscriber()
    unsendable = news.subscriptions.create(address="two\nlines@client.test")
    with pytest.raises(HandlerFailed, match="BadAddress"):
        member.say("news@localhost", subject="Good news")

    mail.let_retries_run_out()

    member.expect("Your mail to news was not handled", body="news@localhost")
    unsendable.delete()
    member.say("news@localhost", subject="Better news")
    member.expect("Better news")
    assert member.state == "POSTING"
