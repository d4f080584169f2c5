"""Installations that would send each other mail without end: it ends."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from mailapp.endpoints import Endpoint
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.project import Project

LIMIT = 10
UNFINISHED = ["queued", "claimed", "deferred"]


@pytest.fixture(scope="module")
def talkative(shared_project: Callable[..., Project]) -> tuple[Project, Project]:
    """Two installations, one.test and two.test, each of which is the other's smart host.

    Both take mail for both.test, and answer what their handlers are for.
    """
    one, two = (
        shared_project(
            DJANGO_SETTINGS_MODULE="tests.acceptance.limiting_settings",
            MAIL_HOSTS=f"{host},both.test",
            MAIL_CATCHER="",
            WEB="",
        )
        for host in ("one.test", "two.test")
    )
    one.environment["MAIL_RELAY"], two.environment["MAIL_RELAY"] = two.receiver, one.receiver
    for installation in (one, two):
        installation.start("runmail", until="Ctrl-C ends everything.")
    return one, two


@pytest.fixture
def pair(talkative: tuple[Project, Project]) -> Iterator[tuple[Project, Project]]:
    """The two, who have said nothing to each other yet."""
    from mailapp.models import Answer, Conversation, Message

    yield talkative
    for installation in talkative:
        for model in (Message, Conversation, Answer):
            installation.query(model).delete()


@pytest.fixture
def forwarding(pair: tuple[Project, Project]) -> Iterator[tuple[Project, Project]]:
    """The two, who forward everything."""
    forward_everything(pair, True)
    yield pair
    forward_everything(pair, False)


def forward_everything(pair: tuple[Project, Project], enabled: bool) -> None:
    """Return once their receivers know it."""
    from mailapp.models import Handler

    for installation in pair:
        forward = installation.query(Handler).filter(module="mailapp.handlers.forward")
        assert forward.update(enabled=enabled)
        wait_until(lambda it=installation: takes(it, "any-body@both.test") is enabled)


def takes(installation: Project, recipient: str) -> bool:
    receiver = Endpoint.parse(installation.receiver)
    with smtplib.SMTP(receiver.host, receiver.port) as smtp:
        smtp.ehlo()
        smtp.mail("")
        return smtp.rcpt(recipient)[0] == 250


def write(to: Project, sender: str, recipient: str) -> None:
    receiver = Endpoint.parse(to.receiver)
    with smtplib.SMTP(receiver.host, receiver.port) as smtp:
        smtp.sendmail(sender, [recipient], b"Subject: Hello\r\n\r\nHello you.\r\n")


def is_silent(*installations: Project) -> bool:
    """Say whether nobody has anything to do: of what the others sent, all has come, too."""
    from mailapp.models import Delivery

    return not any(
        installation.query(Delivery).filter(status__in=UNFINISHED).exists()
        for installation in [*installations, *installations]
    )


def sent(installation: Project) -> int:
    from mailapp.models import Delivery

    return installation.query(Delivery).filter(queue="outgoing", status="done").count()


def held(installation: Project) -> list[str]:
    from mailapp.models import Delivery

    rows = installation.query(Delivery).filter(queue="outgoing", status="held")
    return list(rows.values_list("reply", flat=True))


@pytest.mark.any_database
def test_two_that_answer_everything_fall_silent_after_one_answer(pair: tuple[Project, Project]):
    one, two = pair

    write(one, "mail-chat-politely@two.test", "mail-chat-politely@one.test")

    wait_until(lambda: sent(one) and is_silent(one, two))
    assert (sent(one), sent(two)) == (1, 0)
    assert held(one) + held(two) == []


@pytest.mark.parametrize(
    "handler",
    [
        "mail-chat-insistently",
        pytest.param("mail-chat-disguised", marks=pytest.mark.any_database),
    ],
)
def test_two_that_take_each_other_for_people_fall_silent_after_ten_answers_each(
    pair: tuple[Project, Project], handler: str
):
    one, two = pair

    write(one, f"{handler}@two.test", f"{handler}@one.test")

    wait_until(lambda: held(one) and is_silent(one, two))
    assert (sent(one), sent(two)) == (LIMIT, LIMIT)
    assert held(one) == ["Held: this handler has answered this person 10 times within an hour"]
    assert held(two) == []


@pytest.mark.any_database
def test_two_that_forward_everything_to_each_other_fall_silent_after_one_round(
    forwarding: tuple[Project, Project],
):
    from mailapp.models import Delivery

    one, two = forwarding

    write(one, "reader@elsewhere.test", "any-body@both.test")

    failed = one.query(Delivery).filter(queue="incoming", status="failed")
    wait_until(lambda: failed.exists() and is_silent(one, two))
    assert failed.get().reply == "550 5.4.6 The mail goes in a circle"
    assert [each.query(Delivery).filter(queue="incoming").count() for each in forwarding] == [2, 1]
    report = one.query(Delivery).get(queue="outgoing", status="failed")
    assert (report.recipient, report.message.sender) == ("reader@elsewhere.test", "")
