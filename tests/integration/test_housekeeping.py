"""What is removed in the course of time, and what never is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailapp import housekeeping, registry
from mailapp.models import (
    INCOMING,
    OUTGOING,
    Answer,
    Attempt,
    Conversation,
    Delivery,
    Duty,
    Handler,
    Message,
    Process,
    RawMessage,
    Status,
    Suppression,
    Transition,
    Unheard,
)
from mailapp.storage import DurableFileSystemStorage
from tests.waiting import DEADLINE, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

NOTHING = dict.fromkeys(housekeeping._CHORES, 0)
DAY = 86400.0


@pytest.fixture(autouse=True)
def mail_settings(settings, tmp_path):
    settings.MAIL = {
        **settings.MAIL,
        "KEEP": {"done": 30, "failed": 90, "held": 0, "transitions": 365, "processes": 30},
        "INLINE_SIZE": 1000,
        "RETRY_DAYS": 7,
    }
    use_storage(settings, tmp_path, "mailapp.storage.DurableFileSystemStorage")


def use_storage(settings, folder: Path, backend: str) -> None:
    mail = {"BACKEND": backend, "OPTIONS": {"location": folder / "large"}}
    settings.STORAGES = {**settings.STORAGES, "mail": mail}


def days_ago(days: float):
    return timezone.now() - timedelta(days=days)


@pytest.fixture
def aged(message) -> Callable[..., Message]:
    """Store a mail some days ago whose deliveries ended so: `aged(40, "done", "held")`."""

    def make(days: float, *statuses: str, **fields: Any) -> Message:
        recipients = [f"{number}@example.com" for number in range(len(statuses))]
        stored = message(recipients=recipients, **fields)
        for delivery, status in zip(stored.deliveries.order_by("pk"), statuses, strict=True):
            end(delivery, status, days)
        return stored

    return make


def end(delivery: Delivery, status: str, days: float) -> None:
    """Bring a delivery into a status, some days ago."""
    waits = status in {"queued", "deferred"}
    Delivery.objects.filter(pk=delivery.pk).update(
        status=status,
        created_at=days_ago(days),
        due_at=days_ago(days) if waits else None,
        claim="0" * 32 if status == "claimed" else None,
    )


def try_at(delivery: Delivery, days: float, process: Process | None = None) -> Attempt:
    """Note a try of a delivery some days ago."""
    at = days_ago(days)
    return delivery.attempt_set.create(
        number=1, started_at=at, ended_at=at, outcome="done", process=process
    )


class Rests(threading.Event):
    """Notes how long each rest would be, and takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return self.is_set()


# Mail


@pytest.mark.parametrize(
    ("status", "days", "goes"),
    [
        ("done", 29, False),
        ("done", 31, True),
        ("failed", 31, False),
        ("failed", 91, True),
        ("held", 3000, False),
        ("queued", 3000, False),
        ("deferred", 3000, False),
        ("claimed", 3000, False),
    ],
)
def test_mail_goes_when_its_status_is_not_kept_so_long(aged, status, days, goes):
    stored = aged(days, status)
    try_at(stored.deliveries.get(), days)

    removed = housekeeping.clean()

    assert removed["deliveries"] == goes
    for model in (Message, RawMessage, Delivery, Attempt):
        assert model.objects.exists() is not goes


def test_status_that_is_not_named_is_kept_for_ever(aged, settings):
    settings.MAIL = {**settings.MAIL, "KEEP": {"held": 1}}
    done, held = aged(3000, "done"), aged(3000, "held")

    housekeeping.clean()

    assert list(Message.objects.all()) == [done]
    assert not Delivery.objects.filter(message=held).exists()


@pytest.mark.parametrize("other", ["queued", "claimed", "deferred", "held", "failed"])
def test_message_stays_whole_while_another_delivery_is_kept(aged, other):
    aged(40, "done", other)

    assert housekeeping.clean() == NOTHING
    assert Delivery.objects.count() == 2
    assert Message.objects.count() == 1


def test_message_goes_with_all_its_deliveries_however_many_they_are(aged):
    aged(100, *["done", "failed"] * 130)
    kept = aged(100, *["done"] * 130, "queued")

    removed = housekeeping.clean(stopping=Rests())

    assert removed["deliveries"] == 260
    assert list(Message.objects.all()) == [kept]
    assert kept.deliveries.count() == 131


def test_age_counts_from_the_last_try(aged):
    stored = aged(100, "done")
    try_at(stored.deliveries.get(), days=2)

    assert housekeeping.clean() == NOTHING


def test_what_old_mail_caused_stays(aged, message):
    delivery = aged(40, "done").deliveries.get()
    answer = message(queue=OUTGOING, cause=delivery.pk)
    handler = Handler.objects.create(module="tests.none")
    conversation = Conversation.objects.create(handler=handler, person="reader@client.test")
    conversation.transitions.create(delivery=delivery, from_state="A", to_state="B")

    housekeeping.clean()

    assert list(Message.objects.all()) == [answer]
    assert Message.objects.get().cause is None
    assert conversation.transitions.get().delivery is None


def test_dry_run_counts_what_would_go_and_removes_nothing(aged, capsys):
    aged(100, "done", "failed")
    aged(1, "done")

    call_command("cleanmail", "--dry-run")
    said = capsys.readouterr().out
    assert Delivery.objects.count() == 3
    call_command("cleanmail")

    assert "Would remove 2 deliveries\n" in said
    assert capsys.readouterr().out == said.replace("Would remove", "Removed")
    assert Delivery.objects.count() == 1
    assert housekeeping.clean() == NOTHING


def test_two_at_once_remove_each_once_and_leave_no_message_without_deliveries(aged, together):
    for _ in range(50):
        aged(100, "done", "failed", "done")
    aged(100, *["done", "failed"] * 110)

    restless = partial(housekeeping.clean, stopping=Rests())
    counts = together(restless, restless)
    rest = housekeeping.clean()

    assert sum(count["deliveries"] for count in [*counts, rest]) == 370
    assert not Message.objects.exists()


def test_what_an_operator_has_in_hand_is_neither_waited_for_nor_removed(aged, together):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    stored = aged(100, "failed")

    with transaction.atomic():
        stored.deliveries.all().retry()
        [removed] = together(housekeeping.clean)

    assert removed == NOTHING
    assert stored.deliveries.get().status == Status.QUEUED


def test_cleaning_ends_early_when_it_is_asked_to(aged):
    for _ in range(housekeeping._STEP + 1):
        aged(100, "done")
    stopping = threading.Event()
    stopping.set()

    removed = housekeeping.clean(stopping=stopping)

    assert removed == NOTHING | {"deliveries": housekeeping._STEP}


def test_each_step_is_followed_by_a_rest_three_times_as_long(aged, monkeypatch):
    aged(100, "done")
    two_seconds_later = count(step=2.0)
    monkeypatch.setattr(housekeeping, "monotonic", lambda: next(two_seconds_later))
    rests = Rests()

    housekeeping.clean(stopping=rests)

    assert rests.seconds
    assert set(rests.seconds) == {6.0}


# Files


class Watching(DurableFileSystemStorage):
    """Asks on another connection, before a file goes, whether its row is still there."""

    found: list[bool] = []

    def delete(self, name: str) -> None:
        thread = threading.Thread(target=self._ask, args=(name,))
        thread.start()
        thread.join(DEADLINE)
        super().delete(name)

    def _ask(self, name: str) -> None:
        self.found.append(RawMessage.objects.filter(file=name).exists())
        connections.close_all()


def test_file_of_a_large_message_goes_after_the_commit(aged, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Watching, "found", [])
    use_storage(settings, tmp_path, f"{__name__}.Watching")
    name = aged(40, "done", raw=b"x" * 2000).raw_message.file
    assert storages["mail"].exists(name)

    housekeeping.clean()

    assert Watching.found == [False]
    assert not storages["mail"].exists(name)


class Away(DurableFileSystemStorage):
    """Cannot be reached."""

    def delete(self, name: str) -> None:
        raise OSError("the storage is away")


def test_file_that_cannot_be_removed_goes_later_as_an_orphan(aged, settings, tmp_path, caplog):
    use_storage(settings, tmp_path, f"{__name__}.Away")
    name = aged(40, "done", raw=b"x" * 2000).raw_message.file
    age(name, days=40)
    housekeeping._remove_deliveries(list(Delivery.objects.values_list("pk", flat=True)))
    assert "the storage is away" in caplog.text
    use_storage(settings, tmp_path, "mailapp.storage.DurableFileSystemStorage")

    removed = housekeeping.clean()

    assert removed == NOTHING | {"files without a message": 1}
    assert not storages["mail"].exists(name)


def age(name: str, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(storages["mail"].path(name), (then, then))


@pytest.mark.parametrize(
    ("name", "days", "goes"),
    [
        ("2026/01/02/mail.eml", 2, True),
        ("2026/01/02/mail_a1B2c3D.eml", 2, True),
        ("2026/01/02/.tmpa1b2_3", 2, True),  # half of a file, of a process that died
        ("2026/01/02/mail.eml", 0.5, False),  # its row may still come
        ("2026/01/02/notes.txt", 2, False),
        ("2026/mail.eml", 2, False),
        ("logo.png", 2, False),
    ],
)
def test_file_that_no_row_names_goes_when_it_is_ours_and_old(name, days, goes):
    storages["mail"].save(name, ContentFile(b"bytes"))
    age(name, days)

    removed = housekeeping.clean()

    assert removed == NOTHING | {"files without a message": goes}
    assert storages["mail"].exists(name) is not goes


def test_file_that_a_row_names_stays_however_old(aged):
    stored = aged(100, "held", raw=b"x" * 2000)
    age(stored.raw_message.file, days=100)

    assert housekeeping.clean() == NOTHING
    assert stored.raw == b"x" * 2000


# The rest


def test_old_transitions_go_and_their_conversation_stays():
    handler = Handler.objects.create(module="tests.none")
    conversation = Conversation.objects.create(handler=handler, person="reader@client.test")
    for days in (400, 366, 364):
        conversation.transitions.create(from_state="A", to_state="B", at=days_ago(days))

    removed = housekeeping.clean()

    assert removed == NOTHING | {"transitions": 2}
    assert Transition.objects.get().at > days_ago(365)
    assert Conversation.objects.exists()


def test_process_goes_once_it_is_long_silent_and_nothing_names_it(aged, process):
    forgotten, named, busy, alive = (process() for _ in range(4))
    long_ago = Process.objects.exclude(pk=alive.pk)
    long_ago.update(heartbeat_at=days_ago(31), stopped_at=days_ago(31))
    try_at(aged(1, "done").deliveries.get(), days=1, process=named)
    in_hand = aged(1, "claimed").deliveries
    in_hand.update(claimed_by=busy)

    removed = housekeeping.clean()

    assert removed == NOTHING | {"processes": 1}
    assert list(Process.objects.order_by("pk")) == [named, busy, alive]
    assert not Process.objects.filter(pk=forgotten.pk).exists()


def test_unheard_mail_is_forgotten_when_nobody_will_send_it_again(message):
    stored = message()
    Unheard.objects.create(digest="old", message=stored, created_at=days_ago(8))
    Unheard.objects.create(digest="young", message=stored, created_at=days_ago(6))

    removed = housekeeping.clean()

    assert removed == NOTHING | {"notes of unheard mail": 1}
    assert Unheard.objects.get().digest == "young"


def test_answers_go_that_no_limit_counts_any_more(db):
    registry.sync()
    handler = Handler.objects.first()
    _, counted = (
        Answer.objects.create(handler=handler, person="reader@client.test", at=days_ago(days))
        for days in (1.1, 0.9)
    )

    removed = housekeeping.clean()

    assert removed == NOTHING | {"counted answers": 1}
    assert Answer.objects.get() == counted


def test_expired_suppressions_go_and_those_without_an_end_stay(db):
    for address, expires_at in [("old", days_ago(1)), ("new", days_ago(-1)), ("kept", None)]:
        Suppression.objects.create(address=f"{address}@client.test", expires_at=expires_at)

    removed = housekeeping.clean()

    assert removed == NOTHING | {"suppressions": 1}
    assert not Suppression.objects.filter(address="old@client.test").exists()


def test_duties_that_nobody_takes_any_more_go(db):
    for name, due_at in [("old", days_ago(1.1)), ("due", days_ago(0.9)), ("new", days_ago(-1))]:
        Duty.objects.create(name=name, due_at=due_at)

    removed = housekeeping.clean()

    assert removed == NOTHING | {"duties": 1}
    assert set(Duty.objects.values_list("name", flat=True)) == {"due", "new"}


# Once a day


def test_one_of_all_who_ask_takes_a_duty_and_the_others_wait_for_the_next_day(together):
    day = timedelta(days=1)

    taken = together(*[lambda: Duty.objects.take("sweep", every=day)] * 5)

    assert sorted(taken) == [False] * 4 + [True]
    Duty.objects.update(due_at=timezone.now())
    assert Duty.objects.take("sweep", every=day)
    assert not Duty.objects.take("sweep", every=day)


def test_what_is_old_goes_beside_the_work_once_a_day(aged):
    aged(40, "done")

    with housekeeping.daily():
        wait_until(lambda: not Message.objects.exists())
    again = aged(40, "done")
    with housekeeping.daily():
        pass

    assert list(Message.objects.all()) == [again]
    assert Duty.objects.get().due_at > days_ago(-0.9)


# On many rows


@pytest.fixture
def many(message) -> None:
    """Thousands of deliveries, of which few can go."""
    for start in range(0, 6000, 50):
        message(recipients=[f"{start + number}@example.com" for number in range(50)])
    Delivery.objects.update(status=Status.DONE, due_at=None)
    old = Message.objects.order_by("pk")[:4].values_list("pk", flat=True)
    Delivery.objects.filter(message__in=list(old)).update(created_at=days_ago(40))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def plans(run: Callable[[], Any]) -> str:
    """How the database finds the rows of each statement."""
    with CaptureQueriesContext(connection) as queries:
        run()
    explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
    found = []
    for query in queries:
        if query["sql"].startswith(("SELECT", "UPDATE", "DELETE")):
            with connection.cursor() as cursor:
                cursor.execute(f"{explain} {query['sql']}")
                found += [query["sql"], *(str(row[-1]) for row in cursor.fetchall())]
    return "\n".join(found)


@pytest.mark.parametrize("status", [Status.DONE, Status.HELD])
def test_old_mail_is_found_in_order_by_the_index(many, status):
    rows = Delivery.objects.filter(queue=INCOMING, status=status)

    plan = plans(lambda: list(housekeeping._older(rows, "created_at", 30)))

    assert "mailapp_by_status" in plan or connection.vendor == "postgresql"
    assert not any(word in plan for word in ("Sort", "TEMP B-TREE", "Seq Scan", "SCAN "))


def test_each_row_that_goes_is_found_by_an_index(many, process):
    process()
    keys = next(housekeeping._old_deliveries())

    plan = plans(lambda: housekeeping._remove_deliveries(keys))

    assert not any(word in plan for word in ("Seq Scan on mailapp_delivery", "SCAN mailapp"))


def test_file_is_looked_for_by_an_index(aged):
    plan = plans(lambda: list(RawMessage.objects.filter(content=None, file__in=["a", "b"])))

    assert "mailapp_raw_file" in plan or connection.vendor == "postgresql"  # of so few rows
