"""What users test their handlers with, tried on a small desk whose handlers are in this module."""

from __future__ import annotations

import re
import sys

import pytest
from django.core.mail import EmailMessage
from django.test import TestCase

from mailapp.errors import SMTPError
from mailapp.models import Delivery, Message, Timer
from mailapp.registry import handler_modules
from mailapp.routing import after, route, route_like, state_key_generator, stateless
from mailapp.testing.handlers import handlers
from mailapp.testing.person import Person
from mailapp.testing.post import HandlerFailed, Refused

# A transaction of the test's own would hide its rows from the receiver's thread.
pytestmark = pytest.mark.django_db(transaction=True)

MODULE = sys.modules[__name__]


# The desk: it asks who writes, and greets whoever has said so.


@state_key_generator
def one_conversation_per_desk(module_name, message):
    return message.recipient.partition("@")[0].partition("-")[0]


@route("(desk)@(host)", desk="desk|counter")
def START(message, desk, host):
    write(message, "Who are you?", reply_to=[f"{desk}-name@{host}"])
    return ASKED


@route("(desk)-name@(host)", desk="desk|counter")
def ASKED(message, desk, host):
    write(message, "Welcome", f"Good morning, {message.reply_text()}.")
    return KNOWN


@route_like(START)
def KNOWN(message, desk, host):
    for attachment in message.attachments:
        write(message, attachment.filename, attachment.content_type)


@after(ASKED, days=1)
def ask_again(conversation):
    write(conversation.message, "Who are you?")
    return WAITING


@route_like(ASKED)
def WAITING(message, desk, host):
    return ASKED(message, desk, host)


@after(WAITING, days=2)
def give_up(conversation):
    write(conversation.message, "Goodbye")
    return START


@after(KNOWN, days=1)
def call(conversation):
    raise LookupError("the lobby is empty")


@stateless
@route("echo@(host)")
def ECHO(message, host):
    message.forward(message.sender or "postmaster@client.test")


@route("broken@(host)")
def BROKEN(message, host):
    """Nobody is ever in this state."""


@stateless
@route("failing@(host)")
def FAILING(message, host):
    raise LookupError("the drawer is empty")


@stateless
@route("unsafe@(host)")
def UNSAFE(message, host):
    message.forward("two\nlines@client.test")


@stateless
@route("(what)@(host)", what="later|never")
def REFUSING(message, what, host):
    raise SMTPError(*{"later": (451, "Come back"), "never": (550, "Go away")}[what])


def write(message, subject, body="", **fields):
    EmailMessage(subject, body, message.recipient, [message.sender], **fields).send()


@pytest.fixture(params=["mail_in_process", "mail_over_smtp"])
def mail(request, use_handlers):
    """Each test on both ways."""
    use_handlers(MODULE)
    return request.getfixturevalue(request.param)


@pytest.fixture
def reader(person):
    return person("reader@client.test")


def test_conversation_is_said_and_expected(reader):
    reader.say("desk@localhost", "Hello?")

    reader.expect(subject="Who are you?").respond("A reader")

    welcome = reader.expect(subject="Welcome", body="Good morning, A reader.")
    assert welcome.author == "desk-name@localhost"
    assert reader.state == "KNOWN"
    reader.expect_nothing()


def test_receivers_reply_is_returned(reader):
    assert reader.say("desk@localhost").startswith("250 ")


def test_answer_refers_to_what_it_answers(reader):
    reader.say("desk@localhost")
    question = reader.expect("Who are you?")

    question.respond("A reader")

    answer = Message.objects.filter(sender="reader@client.test").first()
    assert question.header("Message-ID")
    assert f"In-Reply-To: {question.header('Message-ID')}".encode() in answer.raw


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("desk@elsewhere.test", "550 5.7.1"),
        ("nobody@localhost", "550 5.1.1"),
        ("nobody", "553 5.1.3"),
        ("two@at@signs", "553 5.1.3"),
    ],
)
def test_what_the_receiver_refuses_is_refused(reader, recipient, reply):
    with pytest.raises(Refused, match=re.escape(reply)):
        reader.say(recipient)

    assert not Message.objects.exists()


@pytest.mark.parametrize("sender", ["a" * 65 + "@client.test", f"reader@{'a.' * 124}test", "a b@c"])
def test_sender_that_the_receiver_would_refuse_is_refused(reader, sender):
    with pytest.raises(Refused, match=re.escape("553 5.1.7")):
        reader.say("desk@localhost", sender=sender)

    assert not Message.objects.exists()


def test_sender_is_stored_as_the_receiver_writes_it(reader):
    reader.say("desk@localhost", sender="Reader@CLIENT.test")

    assert Message.objects.filter(sender="Reader@client.test").exists()


def test_one_of_two_recipients_may_be_refused(reader):
    reader.say(["desk@localhost", "desk@elsewhere.test"])

    assert Delivery.objects.get(queue="incoming").recipient == "desk@localhost"


def test_letter_shows_what_came(reader):
    reader.say(
        "echo@localhost",
        "Schöne Grüße",
        subject="Grüße",
        attach={"plan.pdf": b"%PDF", "notes.txt.gz": b"\x1f\x8b"},
        headers={"X-Mood": "good"},
    )

    letter = reader.expect("Grüße", sender="reader@client.test")
    assert letter.body() == "Schöne Grüße\n"
    assert letter.header("X-Mood") == "good"
    assert [(each.filename, each.content_type, each.content) for each in letter.attachments] == [
        ("plan.pdf", "application/pdf", b"%PDF"),
        ("notes.txt.gz", "application/octet-stream", b"\x1f\x8b"),
    ]


def test_bytes_arrive_as_they_were_sent(reader):
    raw = b"Subject: =?broken\r\n\r\n.dots\r\n..and more \xff\r\n"

    reader.send("echo@localhost", raw)

    assert reader.expect().raw.endswith(raw)


def test_person_may_write_as_another_sender(reader, person):
    reader.say("echo@localhost", sender="")

    reader.expect_nothing()
    assert person("postmaster@client.test").expect().sender == ""


def test_regular_expression_may_be_wanted(reader):
    reader.say("desk@localhost")

    with pytest.raises(AssertionError, match="subject '\\^you'"):
        reader.expect(re.compile("^you"))

    reader.expect(re.compile("you.$"))


def test_failure_says_what_did_come_and_what_was_held(reader):
    reader.say("desk@localhost")
    reader.say("broken@localhost")

    with pytest.raises(AssertionError) as caught:
        reader.expect("Welcome", author="desk@")

    report = str(caught.value).splitlines()
    assert report[0] == (
        "reader@client.test expected 1 mail with subject 'Welcome', author 'desk@', found 0:"
    )
    assert report[1] == "  unread: 'Who are you?' by desk@localhost from desk@localhost"
    assert report[2].startswith("  held: to broken@localhost: ")
    assert "No enabled handler takes this recipient" in report[2]


def test_each_mail_is_expected_once(reader):
    reader.say(["desk@localhost", "counter@localhost"])

    with pytest.raises(AssertionError, match="expected 1 mail, found 2"):
        reader.expect()
    with pytest.raises(AssertionError, match="expected no mail, found 2"):
        reader.expect_nothing()
    reader.expect_all(2, "Who are you?")

    reader.expect_nothing()
    assert len(reader.mailbox) == 2


def test_mail_can_be_left_aside(reader):
    reader.say("desk@localhost")

    reader.read_all()

    reader.expect_nothing()


def test_people_are_told_apart_without_regard_to_case(person):
    person("Reader@client.test").say("desk@localhost")

    person("other@client.test").expect_nothing()
    person("reader@CLIENT.test").expect("Who are you?")


def test_state_of_several_conversations_is_asked_by_handler_and_key(reader):
    reader.say("desk@localhost")
    reader.say("counter@localhost")
    reader.expect_all(2)[0].respond("A reader")

    assert reader.state_with(MODULE, "desk") == "KNOWN"
    assert reader.state_with(__name__, "counter") == "ASKED"
    assert reader.state_with(MODULE, "window") == "START"
    with pytest.raises(AssertionError, match="several conversations"):
        assert reader.state


def test_exception_of_a_handler_fails_the_test_with_its_traceback(reader):
    with pytest.raises(HandlerFailed, match="LookupError: the drawer is empty"):
        reader.say("failing@localhost")


def test_error_of_the_framework_fails_the_test_too(reader):
    with pytest.raises(HandlerFailed, match="BadAddress"):
        reader.say("unsafe@localhost")


@pytest.mark.parametrize(("what", "status"), [("later", "deferred"), ("never", "failed")])
def test_what_a_handler_refuses_on_purpose_does_not_fail_the_test(reader, what, status):
    reader.say(f"{what}@localhost")

    assert Delivery.objects.get(recipient=f"{what}@localhost").status == status


def test_retries_can_run_out(reader, mail):
    with pytest.raises(HandlerFailed):
        reader.say("failing@localhost")

    mail.let_retries_run_out()

    assert Delivery.objects.get(recipient="failing@localhost").status == Delivery.Status.HELD


def test_what_comes_due_as_time_passes_is_worked_in_order(reader, mail):
    reader.say("desk@localhost")
    reader.read_all()

    mail.later(hours=23, minutes=59)
    reader.expect_nothing()
    mail.later(minutes=1)
    reader.expect("Who are you?")
    mail.later(days=1)
    assert reader.state == "WAITING"
    mail.later(days=1)

    reader.expect("Goodbye")
    assert reader.state == "START"


def test_timer_that_another_has_started_comes_due_in_the_same_time(reader, mail):
    reader.say("desk@localhost")

    mail.later(days=3)

    assert [letter.subject for letter in reader.unread][1:] == ["Who are you?", "Goodbye"]


def test_function_that_fails_as_time_passes_fails_the_test(reader, mail):
    reader.say("desk@localhost")
    reader.expect("Who are you?").respond("A reader")

    with pytest.raises(HandlerFailed, match="LookupError: the lobby is empty"):
        mail.later(days=1)
    mail.let_retries_run_out()

    assert Timer.objects.held().count() == 1
    mail.later(days=9)


def test_retries_are_made_as_time_passes(reader, mail):
    with pytest.raises(HandlerFailed):
        reader.say("failing@localhost")

    with pytest.raises(HandlerFailed):
        mail.later(minutes=1)

    assert Delivery.objects.get(recipient="failing@localhost").attempts == 2


def test_handlers_of_the_apps_are_back_after_the_block(use_handlers):
    before = set(handler_modules())

    with handlers(MODULE):
        assert set(handler_modules()) == {__name__}

    assert set(handler_modules()) == before


class WithoutPytest(TestCase):
    """The same, where fixtures are not to be had."""

    def test_conversation_in_a_test_case(self):
        reader = Person("reader@client.test")

        with handlers(MODULE):
            reader.say("desk@localhost")

        reader.expect("Who are you?")
        assert reader.state == "ASKED"
