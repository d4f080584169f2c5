"""Many workers at one queue: each conversation has its mails in order of arrival, each once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from django.db import connection

from tests.waiting import wait_until

if TYPE_CHECKING:
    from mailapp.models import NewMail
    from tests.project import Project

OF_ONE = 3000  #: mails of one person
OTHERS = 1000  #: people, who write three mails each
IN_LINE = 100  #: of them, whose mails wait behind the first, which is taken at its second try
WORKERS = 1 if connection.vendor == "sqlite" else 4


def mails() -> list[NewMail]:
    """What all of them write, mixed."""
    from mailapp.models import NewMail

    def mail(sender: str, to: str, subject: str = "Now") -> NewMail:
        raw = f"Subject: {subject}\r\n\r\n".encode()
        return NewMail(
            raw=raw,
            sender=f"{sender}@client.test",
            recipients=[f"{to}@localhost"],
            protocol="ESMTP",
        )

    of_one = [mail("reader", "mail-count") for _ in range(OF_ONE)]
    of_others = [
        mail(f"reader-{number}", "mail-line", "Later" if round == 0 else "Now")
        if number < IN_LINE
        else mail(f"reader-{number}", "mail-count")
        for round in range(3)
        for number in range(OTHERS)
    ]
    return [each for pair in zip(of_one, of_others, strict=True) for each in pair]


def finish(project: Project) -> None:
    """Return when nothing waits; fifty mails a second are expected of any machine."""
    from mailapp.models import Delivery

    waiting = project.query(Delivery).filter(queue="incoming").exclude(status="done")
    wait_until(lambda: not waiting.exists(), seconds=120)


def arrivals(project: Project) -> dict[str, list[int]]:
    """The deliveries of each person, as they came."""
    from mailapp.models import Delivery

    incoming = project.query(Delivery).filter(queue="incoming").order_by("id")
    return _grouped(incoming.values_list("person", "id"))


def moves(project: Project) -> dict[str, list[int]]:
    """The deliveries that moved each person's conversation, one after the other."""
    from mailapp.models import Transition

    transitions = project.query(Transition).order_by("id")
    return _grouped(transitions.values_list("conversation__person", "delivery_id"))


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for person, delivery in pairs:
        groups[person].append(delivery)
    return groups


def test_each_conversation_is_moved_by_its_mails_in_order_whoever_works_them(
    project: Callable[..., Project],
) -> None:
    from mailapp.models import Attempt, Message

    running = project(DJANGO_SETTINGS_MODULE="tests.acceptance.retrying_settings")
    running.start("runworker", "--processes", str(WORKERS), until="Ctrl-C ends it.")
    objects = Message.objects.using(running.query(Message).db)

    objects.store(mails())
    finish(running)

    attempts = running.query(Attempt)
    assert moves(running) == arrivals(running)
    assert attempts.filter(outcome="deferred").count() == IN_LINE
    assert attempts.values("process").distinct().count() == WORKERS
