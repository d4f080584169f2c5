"""Handlers that hang, kill and hoard, and mail that is a bomb: they take nothing with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from mailapp.models import Attempt, Delivery
from mailapp.models.delivery import Status
from tests.ledger import Client, Ledger, Letter
from tests.project import Program, Project
from tests.waiting import DEADLINE, wait_until

FAILING = ("raise", "leave", "hoard")
KILLING = ("exit", "kill")
HANGING = ("sleep", "match", "stay")

_LAST_WORDS = {
    "raise": "LookupError",
    "leave": "SystemExit",
    "hoard": "MemoryError",
    "exit": "exit code 3",
    "kill": "signal 9, Killed",
} | dict.fromkeys(HANGING, "a handler ran out of time")


@pytest.fixture
def running(project: Callable[..., Project]) -> tuple[Project, Program]:
    """All parts, with workers whose handlers have little time and memory."""
    made = project(DJANGO_SETTINGS_MODULE="tests.acceptance.contained_settings", WEB="")
    return made, made.start("runmail", until="Ctrl-C ends everything.")


def send(project: Project, letters: Iterator[Letter]) -> None:
    """Send each until it is taken."""
    with contextlib.closing(Client(project.receiver, Ledger())) as client:
        client.send_all(letters)


def letters(good: int) -> Iterator[Letter]:
    """Good mails, and every tenth one that goes wrong in another way."""
    ways = iter(_LAST_WORDS)
    for number in range(good):
        yield letter(f"good-{number}", "mail-count@localhost")
        if number % 10 == 5 and (way := next(ways, None)):
            yield letter(way, f"mail-fail-{way}@localhost")


def letter(name: str, recipient: str) -> Letter:
    raw = f"Subject: {name}\r\n\r\nHello.\r\n".encode()
    return Letter(name, f"{name}@client.test", [recipient], raw)


def incoming(project: Project) -> list[Delivery]:
    """What came in, in order."""
    return list(project.query(Delivery).exclude(person="").order_by("pk"))


def is_at_its_end(project: Project) -> bool:
    return {each.status for each in incoming(project)} <= {Status.DONE, Status.HELD}


def outcomes(project: Project, delivery: Delivery) -> list[str]:
    tries = project.query(Attempt).filter(delivery=delivery.pk).order_by("number")
    return list(tries.values_list("outcome", flat=True))


def test_hundred_good_mails_are_done_whatever_handlers_do_to_their_process(running):
    project, _ = running

    send(project, letters(good=100))

    wait_until(lambda: is_at_its_end(project), 6 * DEADLINE)
    ends = {each.person.partition("@")[0]: each for each in incoming(project)}
    good = [end for name, end in ends.items() if name.startswith("good-")]
    assert [end.status for end in good] == [Status.DONE] * 100
    for way, words in _LAST_WORDS.items():
        assert ends[way].status == Status.HELD, way
        assert words in ends[way].reply, way
    for way in (*KILLING, *HANGING):
        assert outcomes(project, ends[way]) == ["lost"] * 3 + ["held"], way


def test_where_a_handler_hangs_is_in_the_log(running):
    project, program = running

    send(project, iter([letter("stay", "mail-fail-stay@localhost")]))

    wait_until(lambda: "in _stay_in_c_code" in program.output)
    wait_until(lambda: "worker ended (a handler ran out of time)" in program.output)
