"""Handlers that hang, kill and hoard, and mail that is a bomb: they take nothing with them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailapp.models import Attempt, Delivery, Message, NewMail, Status
from tests.ledger import Client, Ledger, Letter
from tests.project import Program, Project
from tests.waiting import DEADLINE, wait_until

FAILING = ("raise", "leave", "hoard", "begin")
KILLING = ("exit", "kill")
HANGING = ("sleep", "match", "stay")

_LAST_WORDS = {
    "raise": "LookupError",
    "leave": "SystemExit",
    "hoard": "MemoryError",
    "begin": "TransactionLeft",
    "exit": "exit code 3",
    "kill": "signal 9, Killed",
} | dict.fromkeys(HANGING, "a handler ran out of time")


@pytest.fixture(scope="module")
def start(shared_project: Callable[..., Project]) -> Callable[[float], tuple[Project, Program]]:
    """Start all parts, with half a gigabyte for each worker and some seconds for a handler."""

    def run(seconds: float) -> tuple[Project, Program]:
        settings = {"DJANGO_SETTINGS_MODULE": "tests.acceptance.contained_settings", "WEB": ""}
        made = shared_project(MAIL_HANDLER_SECONDS=str(seconds), **settings)
        return made, made.start("runmail", until="Ctrl-C ends everything.")

    return run


def send(project: Project, letters: Iterator[Letter]) -> None:
    """Send each until it is taken."""
    with contextlib.closing(Client(project.receiver, Ledger())) as client:
        client.send_all(letters)


def store(project: Project, letters: list[Letter]) -> None:
    """Have them there before a worker starts, which claims them together."""
    objects = Message.objects.using(project.query(Message).db)
    objects.store(
        [
            NewMail(raw=raw, sender=sender, recipients=recipients, protocol="ESMTP")
            for _, sender, recipients, raw in letters
        ]
    )


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
    unfinished = project.query(Delivery).exclude(status__in=[Status.DONE, Status.HELD])
    return not unfinished.exclude(person="").exists()


def outcomes(project: Project, delivery: Delivery) -> list[str]:
    tries = project.query(Attempt).filter(delivery=delivery.pk).order_by("number")
    return list(tries.values_list("outcome", flat=True))


@pytest.fixture(scope="module")
def ordeal(start: Callable[[float], tuple[Project, Program]]) -> tuple[Project, Program]:
    """Good mails, and those that go wrong, have been sent, and all are at their end."""
    project, program = start(2)
    send(project, letters(good=100))
    wait_until(lambda: is_at_its_end(project), 3 * DEADLINE)
    return project, program


def test_hundred_good_mails_are_done_whatever_handlers_do_to_their_process(ordeal):
    project, _ = ordeal

    ends = {each.person.partition("@")[0]: each for each in incoming(project)}
    good = [end for name, end in ends.items() if name.startswith("good-")]
    assert [end.status for end in good] == [Status.DONE] * 100
    for way, words in _LAST_WORDS.items():
        assert ends[way].status == Status.HELD, way
        assert words in ends[way].reply, way
    for way in (*KILLING, *HANGING):
        assert outcomes(project, ends[way]) == ["lost"] * 3 + ["held"], way


def test_worker_that_ran_out_of_memory_makes_way_for_a_new_one(ordeal):
    project, program = ordeal

    send(project, iter([letter("alone", "mail-fail-hoard@localhost")]))

    wait_until(lambda: is_at_its_end(project))
    end = project.query(Delivery).get(person="alone@client.test")
    assert outcomes(project, end) == ["deferred", "deferred", "held"]
    assert 'took more than MAIL["WORKER_MEMORY"]' in program.output
    assert "worker ended (exit code 0) and starts again" in program.output


def test_worker_in_which_a_transaction_was_left_makes_way_for_a_new_one(ordeal):
    project, program = ordeal
    said_before = len(program.output)

    send(project, iter([letter("left", "mail-fail-begin@localhost")]))

    wait_until(lambda: is_at_its_end(project))
    end = project.query(Delivery).get(person="left@client.test")
    assert outcomes(project, end) == ["deferred", "deferred", "held"]
    said = program.output[said_before:]
    assert "A handler has begun a transaction and never ended it; this worker makes way" in said
    assert "worker ended (exit code 0) and starts again" in said


def test_worker_whose_handler_ended_it_starts_again_at_once(ordeal):
    _, program = ordeal

    assert "worker ended (signal 9, Killed) and starts again in 0.0 s" in program.output
    assert "worker ended (exit code 0) and starts again in 0.5 s" in program.output


def test_where_a_handler_hangs_is_in_the_log(ordeal):
    _, program = ordeal

    assert "in _stay_in_c_code" in program.output
    assert "worker ended (a handler ran out of time)" in program.output


@pytest.mark.any_database
def test_all_other_mail_goes_on_while_a_handler_hangs(project):
    settings = {"DJANGO_SETTINGS_MODULE": "tests.acceptance.contained_settings"}
    made = project(MAIL_HANDLER_SECONDS="30", **settings)
    store(made, [letter("stay", "mail-fail-stay@localhost")])
    store(made, [letter(f"good-{number}", "mail-count@localhost") for number in range(100)])

    made.start("runworker", "--processes=1", until="Ctrl-C ends it.")

    good = made.query(Delivery).filter(person__startswith="good-")
    wait_until(lambda: not good.exclude(status=Status.DONE).exists())
    stuck = made.query(Delivery).get(person="stay@client.test")
    assert (stuck.status, outcomes(made, stuck)) == (Status.CLAIMED, [])
    assert set(good.values_list("attempts", flat=True)) == {1}


# Bombs


def nested(depth: int) -> bytes:
    return b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number)
        for number in range(depth)
    )


BOMBS = {
    "nested": nested(1000) + b"\r\nx\r\n",
    "parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 100_000,
    "fields": b"".join(b"X-%d: a\r\n" % number for number in range(50_000)) + b"\r\nx\r\n",
    "semicolons": b"Content-Type: text/plain" + b";" * 20_000 + b"\r\n\r\nx\r\n",
    "commas": b"To: " + b"," * 100_000 + b"\r\n\r\nx\r\n",
    "words": b"Subject: " + b"=?utf-8?q?a?= " * 20_000 + b"\r\n\r\nx\r\n",
}


def bombs() -> Iterator[Letter]:
    """Each bomb for a handler that reads all of it, and one that answers it."""
    for name, raw in BOMBS.items():
        for recipient in ("mail-read@localhost", "mail-answer@localhost"):
            yield Letter(name, f"{name}-{recipient[5]}@client.test", [recipient], raw)


@pytest.mark.any_database
def test_bombs_are_read_by_a_worker_within_ten_seconds_and_half_a_gigabyte(start):
    project, program = start(seconds=10)

    send(project, bombs())

    wait_until(lambda: is_at_its_end(project), 4 * DEADLINE)
    assert {each.person: (each.status, outcomes(project, each)) for each in incoming(project)} == {
        bomb.sender: (Status.DONE, ["done"]) for bomb in bombs()
    }
    assert "starts again" not in program.output
    assert all(most < 512 << 20 for most in most_memory(project).values()), most_memory(project)


def most_memory(project: Project) -> dict[str, int]:
    """The most octets that each process of the project has ever had in memory."""
    found = {}
    for pid in project.processes():
        [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        found[Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")] = int(line) << 10
    return found
