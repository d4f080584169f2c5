"""Lamson's words for a test, tried on a list whose handler is in this module."""

from __future__ import annotations

import re
import sys

import pytest
from django.core.mail import EmailMessage

from mailapp.errors import NotAState
from mailapp.routing import route, state_key_generator
from mailapp.testing.lamson import (
    RouterConversation,
    assert_in_state,
    clear_queue,
    delivered,
    queue,
)
from mailapp.testing.post import HandlerFailed, Refused

MODULE = sys.modules[__name__]
DUDE = "somedude@localhost"

# A transaction of the test's own would hide its rows from the receiver's thread.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("mail")]


@state_key_generator
def one_conversation_per_list(module_name, message):
    return message.recipient.partition("@")[0].partition("-")[0]


@route("(name)-subscribe@(host)", name="news|jokes")
def START(message, name, host):
    write(message.sender, "Please confirm", f"{name}-confirm@{host}", message.subject)
    return CONFIRMING


@route("(name)-confirm@(host)", name="news|jokes")
def CONFIRMING(message, name, host):
    write(message.sender, "Welcome", f"{name}@{host}")
    write("owner@client.test", f"{message.sender} is on the list", f"{name}@{host}")
    return POSTING


@route("(name)@(host)", name="news|jokes")
def POSTING(message, name, host):
    return 42


def write(to, subject, author, body=""):
    EmailMessage(subject, body, author, [to]).send()


@pytest.fixture(params=["mail_in_process", "mail_over_smtp"])
def mail(request, use_handlers):
    """Each test on both ways."""
    use_handlers(MODULE)
    return request.getfixturevalue(request.param)


@pytest.fixture
def client():
    client = RouterConversation(DUDE, "Let me in")
    client.begin()
    return client


def test_conversation_is_said_and_expected(client):
    question = client.say("news-subscribe@localhost", "", "Please confirm")
    assert_in_state(__name__, "news@localhost", DUDE, "CONFIRMING")
    client.say(question.answer_to, "Yes", expect="^Subject: Welcome|is on the list")

    assert_in_state(MODULE, "news@localhost", DUDE, "POSTING")


def test_each_list_has_a_state_of_its_own(client):
    client.say("news-subscribe@localhost", "")

    assert_in_state(MODULE, "jokes@localhost", DUDE, "START")
    with pytest.raises(AssertionError, match="somedude@localhost is in CONFIRMING"):
        assert_in_state(MODULE, "news@localhost", DUDE, "START")


def test_state_of_a_handler_that_is_not_there_is_none(client):
    with pytest.raises(AssertionError, match=r"news\.handlers is no handler that is on"):
        assert_in_state("news.handlers", "news@localhost", DUDE, "START")


def test_mail_has_the_subject_of_the_conversation(client):
    client.say("news-subscribe@localhost", "", expect=re.compile("let me in", re.IGNORECASE))


def test_what_came_before_is_not_expected(client):
    client.say("news-subscribe@localhost", "")

    with pytest.raises(AssertionError, match="expected to bring 'Please confirm'") as caught:
        client.say("news-confirm@localhost", "", expect="Please confirm")

    assert "  came: 'Welcome' by news@localhost" in str(caught.value)
    assert "to owner@client.test" in str(caught.value)


def test_nothing_came_is_said_too(client):
    client.say("news-subscribe@localhost", "")

    with pytest.raises(AssertionError, match="nothing came"):
        client.say("news-subscribe@localhost", "", expect="Please confirm")


def test_queue_has_what_was_sent_to_whomever(client):
    client.say("news-subscribe@localhost", "")
    client.say("news-confirm@localhost", "")

    assert delivered(f"{DUDE} is on the list").reader.address == "owner@client.test"
    assert delivered("Goodbye") is None
    assert queue().count() == 3
    assert queue().pop().subject == "Please confirm"
    assert {letter.subject for letter in queue()} == {"Welcome", f"{DUDE} is on the list"}
    clear_queue()
    assert queue().pop() is None


def test_begin_has_everybody_start_anew(client):
    client.say("news-subscribe@localhost", "")

    client.begin()

    assert_in_state(MODULE, "news@localhost", DUDE, "START")
    assert queue().count() == 0


def test_anybody_may_write(client):
    client.deliver("news-subscribe@localhost", "other@client.test", "Me too", "Hello")

    assert_in_state(MODULE, "news@localhost", "other@client.test", "CONFIRMING")
    assert_in_state(MODULE, "news@localhost", DUDE, "START")


def test_what_fails_fails_the_test(client):
    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        client.say("nobody@localhost", "")
    client.say("news-subscribe@localhost", "")
    client.say("news-confirm@localhost", "")

    with pytest.raises(HandlerFailed, match=NotAState.__name__):
        client.say("news@localhost", "")
