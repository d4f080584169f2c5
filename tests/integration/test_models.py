"""The tables: what is claimed, in which order, by whom, and how it ends."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from mailapp import operating
from mailapp.errors import ClaimLost
from mailapp.models import (
    INCOMING,
    OUTGOING,
    UNDELIVERABLE,
    Attempt,
    Conversation,
    Delivery,
    Handler,
    Message,
    NewMail,
    Outcome,
    Process,
    Queue,
    RawMessage,
    Taken,
    Transition,
)
from mailapp.models.reading import read
from tests.waiting import DEADLINE, wait_until

Status = Delivery.Status

pytestmark = pytest.mark.django_db


@pytest.fixture
def worker(process) -> Process:
    return process("worker")


@pytest.fixture
def claim(worker) -> Callable[..., list[Delivery]]:
    def run(limit: int = 50, by: Process = worker, queue: str = INCOMING) -> list[Delivery]:
        return Delivery.objects.claim(queue, by, limit)

    return run


@pytest.fixture
def in_status(delivery, claim) -> Callable[[Status], Delivery]:
    """Bring a delivery into a status by the way that mail takes."""

    def make(status: Status) -> Delivery:
        stored = delivery()
        if status == Status.QUEUED:
            return stored
        [claimed] = claim()
        if status != Status.CLAIMED:
            Delivery.objects.settle({claimed: Outcome(status=status, delay=3600)})
        return Delivery.objects.get(pk=stored.pk)

    return make


def waits_until(when: Any, **of: Any) -> None:
    Delivery.objects.filter(**of).update(due_at=when)


class TestClaim:
    def test_takes_what_is_due_in_order_of_arrival(self, message, claim):
        stored = [message(sender=f"{n}@client.test").deliveries.get() for n in (3, 1, 2)]

        assert claim() == stored

    def test_takes_no_more_than_the_limit(self, message, claim):
        message(recipients=["a@example.com", "b@example.com", "c@example.com"])

        assert [row.recipient for row in claim(limit=2)] == ["a@example.com", "b@example.com"]

    def test_leaves_what_is_due_later(self, delivery, claim):
        delivery()
        waits_until(timezone.now() + timedelta(seconds=60))

        assert claim() == []

    def test_leaves_the_mail_of_other_queues(self, delivery, claim):
        delivery(queue=OUTGOING)

        assert claim(queue=INCOMING) == []

    def test_gives_nothing_from_a_paused_queue(self, delivery, claim):
        delivery()
        queue = Queue.objects.get(name=INCOMING)
        queue.pause()

        assert claim() == []

        queue.resume()
        assert len(claim()) == 1

    def test_says_who_has_it_and_counts_the_attempt(self, delivery, claim, worker):
        delivery()

        [claimed] = claim()

        assert claimed.status == Status.CLAIMED
        assert claimed.claimed_by == worker
        assert claimed.attempts == 1
        assert claimed.due_at is None

    def test_gives_each_delivery_as_it_is_in_the_database(self, delivery, claim):
        delivery()

        [claimed] = claim()

        stored = Delivery.objects.get()
        assert not claimed.get_deferred_fields()
        for field in Delivery._meta.concrete_fields:
            assert getattr(claimed, field.attname) == getattr(stored, field.attname), field

    def test_leaves_a_person_whose_mail_is_in_hand(self, delivery, claim, process):
        delivery(sender="one@client.test")
        [first] = claim()
        delivery(sender="ONE@client.test")
        other = delivery(sender="two@client.test")

        assert claim(by=process()) == [other]

        Delivery.objects.settle({first: Outcome(status=Status.DONE)})
        assert len(claim()) == 1

    def test_takes_mail_of_nobody_while_other_mail_of_nobody_is_in_hand(self, delivery, claim):
        delivery(sender="")
        claim()
        other = delivery(sender="")

        assert claim() == [other]

    def test_takes_a_persons_mail_of_one_queue_while_another_queue_has_some(self, delivery, claim):
        delivery()
        claim()
        other = delivery(queue=OUTGOING)

        assert claim(queue=OUTGOING) == [other]

    @pytest.mark.parametrize("table", ["mailapp_delivery", "mailapp_message"])
    def test_leaves_what_is_deleted_while_it_is_read(self, message, claim, table):
        deleted, other = message(), message().deliveries.get()

        def delete_first(execute: Callable[..., Any], statement: str, *rest: Any) -> Any:
            if f"FROM {table}" in statement and Delivery.objects.claimed().count() == 2:
                deleted.delete()
            return execute(statement, *rest)

        with connection.execute_wrapper(delete_first):
            claimed = claim()

        assert claimed == [other]


@pytest.mark.django_db(transaction=True)
class TestRace:
    def test_two_claimers_never_get_the_same_delivery(self, message, process, together):
        message(recipients=[f"{n}@example.com" for n in range(60)], sender="")

        claims = [partial(Delivery.objects.claim, INCOMING, process(), 40) for _ in range(2)]

        first, second = together(*claims)

        assert len(first) + len(second) == 60
        assert not {row.id for row in first} & {row.id for row in second}

    def test_one_persons_mail_is_never_with_two_claimers(self, message, process, together):
        for _ in range(8):
            for person in range(6):
                message(sender=f"{person}@client.test")
        watch = Watch()

        together(*[partial(watch.work, process()) for _ in range(4)])

        assert watch.broken == []
        assert set(watch.worked.values()) == {1}
        assert len(watch.worked) == 48

    def test_late_claimer_and_its_successor_never_both_settle(self, delivery, process, together):
        delivery()
        slow = process()
        [claimed] = Delivery.objects.claim(INCOMING, slow, 1)
        slow.stop()

        def settle() -> str:
            try:
                with transaction.atomic():
                    Delivery.objects.settle({claimed: Outcome(status=Status.DONE)})
            except ClaimLost:
                return "lost"
            return "settled"

        outcome, released = together(settle, Delivery.objects.release_dead)

        assert (outcome, released) in {("settled", 0), ("lost", 1)}
        assert Attempt.objects.count() == 1


class Watch:
    """Works a queue in several threads and notes when two of them hold one person's mail."""

    def __init__(self) -> None:
        self.worked: Counter[int] = Counter()
        self.broken: list[str] = []
        self._in_hand: Counter[str] = Counter()
        self._lock = threading.Lock()

    def work(self, process: Process) -> None:
        while Delivery.objects.exclude(status=Status.DONE).exists():
            claimed = Delivery.objects.claim(INCOMING, process, 3)
            people = {row.person for row in claimed}
            with self._lock:
                self._in_hand.update(people)
                self.broken += [person for person in people if self._in_hand[person] > 1]
            with self._lock:
                self.worked.update(row.id for row in claimed)
                self._in_hand.subtract(people)
            Delivery.objects.settle({row: Outcome(status=Status.DONE) for row in claimed})


class TestSettle:
    @pytest.mark.parametrize("status", [Status.DONE, Status.FAILED])
    def test_writes_the_end_with_one_attempt(self, delivery, claim, worker, status):
        delivery()
        [claimed] = claim()

        Delivery.objects.settle({claimed: Outcome(status=status, reply="2 x", error="trace")})

        row = Delivery.objects.get()
        assert (row.status, row.reply, row.claim, row.claimed_by) == (status, "2 x", None, None)
        attempt = row.attempt_set.get()
        assert (attempt.number, attempt.process, attempt.outcome) == (1, worker, status)
        assert (attempt.reply, attempt.error) == ("2 x", "trace")

    def test_defers_by_the_delay(self, delivery, claim):
        delivery()
        [claimed] = claim()
        before = timezone.now()

        Delivery.objects.settle({claimed: Outcome(status=Status.DEFERRED, delay=60)})

        row = Delivery.objects.get()
        assert row.status == Status.DEFERRED
        assert before <= row.due_at - timedelta(seconds=60) <= timezone.now()

    def test_holds_in_undeliverable_and_remembers_the_queue(self, delivery, claim):
        delivery()
        [claimed] = claim()

        Delivery.objects.settle({claimed: Outcome(status=Status.HELD, reply="Nobody took it")})

        row = Delivery.objects.get()
        assert (row.status, row.queue_id, row.held_from_id) == ("held", UNDELIVERABLE, INCOMING)

    def test_gives_each_delivery_its_own_end(self, message, claim):
        message(recipients=["a@example.com", "b@example.com", "c@example.com"])
        ends = {
            row: Outcome(status=status, reply=row.recipient)
            for row, status in zip(claim(), ["done", "held", "failed"], strict=True)
        }

        Delivery.objects.settle(ends)

        rows = Delivery.objects.order_by("id")
        assert [row.status for row in rows] == ["done", "held", "failed"]
        assert all(row.reply == row.recipient for row in rows)

    def test_changes_nothing_when_a_claim_is_lost(self, message, claim, process):
        message(recipients=["a@example.com", "b@example.com"], sender="")
        kept, lost = claim()
        Process.objects.update(stopped_at=timezone.now())
        Delivery.objects.filter(pk=lost.pk).release_dead()
        [again] = claim(by=process())

        with pytest.raises(ClaimLost):
            Delivery.objects.settle(
                {row: Outcome(status=Status.DONE, reply="late") for row in (kept, lost)}
            )

        assert set(Delivery.objects.values_list("claim", "reply")) == {
            (kept.claim, ""),
            (again.claim, ""),
        }
        assert not Attempt.objects.exclude(outcome=Attempt.LOST).exists()

    def test_second_settle_is_refused(self, delivery, claim):
        delivery()
        [claimed] = claim()
        Delivery.objects.settle({claimed: Outcome(status=Status.DONE)})

        with pytest.raises(ClaimLost):
            Delivery.objects.settle({claimed: Outcome(status=Status.FAILED)})

        assert Delivery.objects.get().status == Status.DONE
        assert Attempt.objects.count() == 1

    def test_claim_that_is_given_back_is_due_and_not_counted(self, delivery, claim):
        delivery()
        [claimed] = claim()

        Delivery.objects.give_back([claimed])

        [again] = claim()
        assert again.attempts == 1
        assert not Attempt.objects.exists()


class TestReleaseDead:
    def test_claims_of_a_process_that_stopped_are_due_again(self, delivery, claim, worker):
        delivery()
        claim()
        worker.stop()

        assert Delivery.objects.release_dead() == 1

        assert Delivery.objects.due().get().status == Status.QUEUED
        lost = Attempt.objects.get()
        assert (lost.number, lost.outcome, lost.process) == (1, Attempt.LOST, worker)

    def test_try_that_the_database_broke_off_is_not_held_against_the_mail(
        self, delivery, claim, worker
    ):
        delivery()
        claim()

        assert Delivery.objects.release_dead(idle=worker) == 1

        assert Delivery.objects.due().get().status == Status.QUEUED
        assert Attempt.objects.get().outcome == Status.QUEUED

    def test_mail_that_brings_the_database_down_each_time_is_lost_in_the_end(
        self, delivery, claim, worker, settings
    ):
        settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [10.0, 60.0]}
        delivery()

        for _ in range(4):
            claim()
            Delivery.objects.release_dead(idle=worker)

        outcomes = [attempt.outcome for attempt in Attempt.objects.all()]
        assert outcomes == ["queued", "queued", "lost", "lost"]

    def test_next_try_after_a_lost_one_has_the_next_number(self, delivery, claim, worker, process):
        delivery()
        claim()
        worker.stop()
        Delivery.objects.release_dead()

        [again] = claim(by=process())
        Delivery.objects.settle({again: Outcome(status=Status.DONE)})

        assert list(Attempt.objects.values_list("number", "outcome")) == [(1, "lost"), (2, "done")]

    def test_claims_of_a_process_that_fell_silent_are_due_again(self, delivery, claim, settings):
        delivery()
        claim()
        silence = timedelta(seconds=settings.MAIL.get("DEAD_AFTER_SECONDS", 30) + 1)
        Process.objects.update(heartbeat_at=timezone.now() - silence)

        assert Delivery.objects.release_dead() == 1

    def test_claims_whose_process_is_forgotten_are_due_again(self, delivery, claim, worker):
        delivery()
        claim()
        worker.delete()

        assert Delivery.objects.release_dead() == 1

    def test_claims_of_a_living_process_stay(self, delivery, claim, worker):
        delivery()
        [claimed] = claim()

        assert Delivery.objects.release_dead() == 0

        assert Delivery.objects.get().claim == claimed.claim

    def test_mail_of_the_person_goes_on(self, delivery, claim, worker, process):
        delivery()
        claim()
        delivery()
        worker.stop()
        Delivery.objects.release_dead()

        assert len(claim(by=process())) == 2


OPERATOR = {
    "retry": lambda rows: rows.retry(),
    "hold": lambda rows: rows.hold("Wait"),
    "release": lambda rows: rows.release(),
    "discard": lambda rows: rows.discard("Not wanted"),
}
BECOMES = {
    "retry": {"held": "queued", "failed": "queued", "deferred": "queued"},
    "hold": {"queued": "held", "deferred": "held"},
    "release": {"held": "queued"},
    "discard": {"queued": "failed", "deferred": "failed", "held": "failed"},
}


class TestSettleTaken:
    @pytest.fixture
    def taken(self, delivery, claim) -> Taken:
        """What is known of a mail that was claimed and sent."""
        delivery()
        [claimed] = claim()
        return Taken(
            delivery=claimed.pk,
            claimed_at=claimed.claimed_at,
            ended_at=timezone.now(),
            reply="250 Taken",
        )

    def is_done_in_its_first_try(self, taken: Taken) -> bool:
        row, attempt = Delivery.objects.get(), Attempt.objects.get()
        assert (row.status, row.reply, row.attempts) == (Status.DONE, taken.reply, 1)
        assert (attempt.number, attempt.outcome, attempt.reply) == (1, Status.DONE, taken.reply)
        return attempt.ended_at == taken.ended_at

    def test_mail_that_is_still_claimed_is_done(self, taken):
        assert Delivery.objects.settle_taken([taken]) == 1

        assert self.is_done_in_its_first_try(taken)

    def test_mail_that_was_released_is_done_and_its_try_is_no_longer_lost(self, taken, worker):
        worker.stop()
        Delivery.objects.release_dead()

        assert Delivery.objects.settle_taken([taken]) == 1

        assert self.is_done_in_its_first_try(taken)

    def test_mail_of_which_another_try_has_begun_is_left_to_it(self, taken, worker, claim, process):
        worker.stop()
        Delivery.objects.release_dead()
        [again] = claim(by=process())

        assert Delivery.objects.settle_taken([taken]) == 0

        assert Delivery.objects.get().claim == again.claim
        assert Attempt.objects.get().outcome == Attempt.LOST

    def test_mail_of_which_another_try_was_lost_is_tried_again(self, taken, worker, claim):
        worker.stop()
        Delivery.objects.release_dead()
        claim()
        Delivery.objects.release_dead()

        assert Delivery.objects.settle_taken([taken]) == 0

        assert Delivery.objects.due().count() == 1

    def test_mail_that_an_operator_discarded_meanwhile_stays_so(self, taken, worker):
        worker.stop()
        Delivery.objects.release_dead()
        Delivery.objects.discard("Not wanted")

        assert Delivery.objects.settle_taken([taken]) == 0

        assert Delivery.objects.get().reply == "Not wanted"

    def test_mail_that_was_claimed_at_another_time_is_left_alone(self, taken):
        earlier = taken._replace(claimed_at=taken.claimed_at - timedelta(microseconds=1))

        assert Delivery.objects.settle_taken([earlier]) == 0

        assert Delivery.objects.get().status == Status.CLAIMED
        assert not Attempt.objects.exists()

    def test_mail_that_was_released_from_another_claim_is_left_alone(self, taken, worker):
        worker.stop()
        Delivery.objects.release_dead()
        earlier = taken._replace(claimed_at=taken.claimed_at - timedelta(microseconds=1))

        assert Delivery.objects.settle_taken([earlier]) == 0

        assert Delivery.objects.due().count() == 1

    def test_mail_that_is_settled_stays_as_it_is(self, taken):
        Delivery.objects.settle_taken([taken])
        Delivery.objects.mark_bounced("550 5.1.1 Unknown")

        assert Delivery.objects.settle_taken([taken]) == 0

        assert Delivery.objects.get().status == Status.FAILED


class TestOperator:
    @pytest.mark.parametrize("status", Status)
    @pytest.mark.parametrize("verb", OPERATOR)
    def test_verb_moves_only_what_it_may(self, in_status, verb, status):
        row = in_status(status)
        becomes = BECOMES[verb].get(status)

        changed = OPERATOR[verb](Delivery.objects.all())

        assert changed == (1 if becomes else 0)
        row.refresh_from_db()
        assert row.status == (becomes or status)

    @pytest.mark.parametrize("verb", ["retry", "release"])
    def test_what_was_held_goes_back_to_the_queue_it_came_from(self, in_status, claim, verb):
        in_status(Status.HELD)

        OPERATOR[verb](Delivery.objects.all())

        [again] = claim()
        assert (again.queue_id, again.held_from_id) == (INCOMING, None)

    def test_operator_hold_leaves_it_in_its_queue_and_release_makes_it_due(self, delivery, claim):
        delivery()
        Delivery.objects.hold("Wait")

        assert Delivery.objects.get().queue_id == INCOMING
        assert claim() == []

        Delivery.objects.release()
        assert len(claim()) == 1

    def test_retry_begins_a_new_series_and_keeps_the_number_of_attempts(self, in_status, claim):
        in_status(Status.FAILED)

        Delivery.objects.retry()

        [again] = claim()
        assert (again.attempts, again.tries) == (2, 1)

    def test_discarded_mail_can_be_retried_where_it_came_from(self, in_status, claim):
        in_status(Status.HELD)
        Delivery.objects.discard("Not wanted")

        Delivery.objects.retry()

        assert claim()[0].queue_id == INCOMING

    def test_verbs_work_on_a_selection(self, message):
        message(recipients=["a@example.com", "b@example.com"])

        Delivery.objects.filter(recipient="a@example.com").hold("Wait")

        assert dict(Delivery.objects.values_list("recipient", "status")) == {
            "a@example.com": "held",
            "b@example.com": "queued",
        }


class TestConstraints:
    @pytest.mark.parametrize(
        "columns",
        [
            {"due_at": None},
            {"status": Status.DONE},
            {"status": Status.CLAIMED, "due_at": None},
            {"claim": "8e1ba6a4-3d9a-4c32-a1ee-0b0b3f2f4b8e"},
        ],
    )
    def test_delivery_waits_or_is_claimed_or_neither(self, delivery, columns):
        delivery()

        with pytest.raises(IntegrityError), transaction.atomic():
            Delivery.objects.update(**columns)

    @pytest.mark.parametrize("columns", [{"content": None}, {"file": "a.eml"}])
    def test_bytes_are_in_the_row_or_in_a_file(self, message, columns):
        message()

        with pytest.raises(IntegrityError), transaction.atomic():
            RawMessage.objects.update(**columns)

    def test_person_has_one_conversation_with_a_handler_under_a_key(self):
        handler = Handler.objects.create(module="tests.none")
        Conversation.objects.create(handler=handler, person="a@client.test", key="k")
        Conversation.objects.create(handler=handler, person="a@client.test", key="l")

        with pytest.raises(IntegrityError), transaction.atomic():
            Conversation.objects.create(handler=handler, person="a@client.test", key="k")

    def test_each_attempt_has_a_number_of_its_own(self, in_status):
        row = in_status(Status.DONE)
        attempt = row.attempt_set.get()
        attempt.pk = None

        with pytest.raises(IntegrityError), transaction.atomic():
            attempt.save(force_insert=True)

    def test_history_outlives_the_delivery_that_caused_it(self, in_status):
        handler = Handler.objects.create(module="tests.none")
        conversation = Conversation.objects.create(handler=handler, person="a@client.test")
        row = in_status(Status.DONE)
        conversation.transitions.create(delivery=row, from_state="START", to_state="NEXT")

        row.message.delete()

        assert Transition.objects.get().delivery is None


class TestStore:
    def test_bytes_are_kept_as_they_came(self, message):
        raw = bytes(range(256)) * 4

        assert Message.objects.get(pk=message(raw=raw).pk).raw == raw

    def test_large_mail_is_kept_in_the_storage(self, message, settings):
        settings.MAIL = {**settings.MAIL, "INLINE_SIZE": 100}
        raw = b"Subject: large\r\n\r\n" + b"x" * 100

        row = RawMessage.objects.get(message=message(raw=raw))

        assert row.content is None
        assert storages["mail"].exists(row.file)
        assert row.read() == raw

    def test_many_recipients_share_one_message(self, message):
        stored = message(recipients=[f"{n}@example.com" for n in range(1000)])

        assert stored.deliveries.count() == 1000
        assert (Message.objects.count(), RawMessage.objects.count()) == (1, 1)

    def test_mail_that_came_in_belongs_to_its_folded_sender(self, delivery):
        assert delivery(sender="Reader@CLIENT.test").person == "reader@client.test"

    def test_mail_composed_here_belongs_to_nobody(self, delivery):
        assert delivery(queue=OUTGOING, protocol="").person == ""

    @pytest.mark.django_db(transaction=True)
    def test_nothing_is_stored_when_one_mail_cannot_be(self):
        good = NewMail(raw=b"\r\n", sender="", recipients=["a@example.com"])
        bad = NewMail(raw=b"\r\n", sender="", recipients=["a@example.com"], queue="no such queue")

        with pytest.raises(IntegrityError):
            Message.objects.store([good, bad])

        assert not Message.objects.exists()


class TestQueryCount:
    """However many mails: the same number of statements."""

    @staticmethod
    def statements(function: Callable[[], Any]) -> int:
        with CaptureQueriesContext(connection) as queries:
            function()
        return len(queries)

    def test_of_store(self):
        mail = NewMail(raw=b"\r\n", sender="", recipients=["a@example.com", "b@example.com"])

        one = self.statements(lambda: Message.objects.store([mail]))
        many = self.statements(lambda: Message.objects.store([mail] * 10))

        assert one == many

    def test_of_claim(self, message, claim):
        message(recipients=[f"{n}@example.com" for n in range(41)], sender="")

        one = self.statements(lambda: claim(limit=1))
        many = self.statements(lambda: claim(limit=40))

        assert one == many

    @pytest.mark.parametrize("status", [Status.DONE, Status.DEFERRED, Status.HELD, Status.FAILED])
    def test_of_settle(self, message, claim, status):
        message(recipients=[f"{n}@example.com" for n in range(41)])
        first, *rest = claim()

        def settle(rows: list[Delivery]) -> None:
            Delivery.objects.settle({row: Outcome(status=status, delay=60) for row in rows})

        assert self.statements(lambda: settle([first])) == self.statements(lambda: settle(rest))

    def test_of_settle_with_a_reply_for_each(self, message, claim):
        message(recipients=[f"{n}@example.com" for n in range(41)])
        first, *rest = claim()

        def settle(rows: list[Delivery]) -> None:
            Delivery.objects.settle(
                {row: Outcome(status=Status.DONE, reply=f"250 as {row.id}") for row in rows}
            )

        assert self.statements(lambda: settle([first])) == self.statements(lambda: settle(rest))
        assert all(row.reply == f"250 as {row.id}" for row in Delivery.objects.all())

    def test_of_the_bytes_of_a_batch(self, message, worker):
        for _ in range(10):
            message()
        claimed = Delivery.objects.claim(INCOMING, worker, 50, with_bytes=True)

        assert self.statements(lambda: [row.message.raw for row in claimed]) == 0

    def test_nothing_is_locked_when_nothing_is_due(self, claim, worker):
        with CaptureQueriesContext(connection) as queries:
            claim()

        [only] = queries
        assert only["sql"].startswith("SELECT")


class TestIndexes:
    """On thousands of rows, of which few are due or claimed, as in earnest."""

    @pytest.fixture(params=["with statistics", "without"])
    def rows(self, request, claim, message) -> None:
        message(recipients=[f"{n}@example.com" for n in range(6000)], sender="")
        ids = list(Delivery.objects.order_by("id").values_list("id", flat=True))
        Delivery.objects.filter(id__in=ids[:5000]).update(status=Status.DONE, due_at=None)
        for n, id in enumerate(ids[5000:5050]):
            Delivery.objects.filter(id=id).update(person=f"{n}@client.test")
        claim(limit=100)
        if request.param == "with statistics":
            with connection.cursor() as cursor:
                cursor.execute("ANALYZE")
        elif connection.vendor == "postgresql":
            pytest.skip("PostgreSQL makes them by itself")

    def plans(self, work: Callable[[], object], about: str = "") -> str:
        """How the database finds what `work` looks for."""
        with CaptureQueriesContext(connection) as queries:
            work()
        return "\n\n".join(
            self.explain(query["sql"])
            for query in queries
            if query["sql"].startswith("SELECT") and about in query["sql"].split("WHERE")[-1]
        )

    @staticmethod
    def explain(sql: str) -> str:
        explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
        with connection.cursor() as cursor:
            cursor.execute(f"{explain} {sql}")
            return "\n".join(str(row[-1]) for row in cursor.fetchall())

    def test_claim_finds_due_mail_in_order_by_the_index(self, rows, claim):
        plans = self.plans(claim, about="due_at")

        assert plans.count("mailapp_due") == 2
        assert not any(word in plans for word in ("Sort", "TEMP B-TREE", "Seq Scan", "SCAN "))

    def test_claim_finds_the_people_in_hand_by_an_index(self, rows, claim):
        plans = self.plans(claim, about="due_at")

        assert "mailapp_claimed" in plans or "mailapp_by_status (queue_id=? AND status=?)" in plans

    def test_what_comes_due_next_is_found_by_the_index(self, rows):
        plans = self.plans(lambda: Delivery.objects.next_due(INCOMING, timezone.now()))

        assert plans.count("mailapp_due") == 1
        assert not any(word in plans for word in ("Sort", "TEMP B-TREE", "Seq Scan", "SCAN "))


@pytest.mark.django_db(transaction=True)
class TestLocks:
    @pytest.fixture(autouse=True)
    def only_where_rows_are_locked(self):
        if connection.vendor != "postgresql":
            pytest.skip("SQLite locks the whole database for each writer")

    def test_mail_comes_in_while_a_claim_holds_the_queue(self, delivery, claim, together):
        delivery()

        with transaction.atomic():
            claim()
            together(self.store_without_waiting)

        assert Delivery.objects.count() == 2

    def test_mail_comes_in_while_a_handler_moves_a_conversation(self, together):
        handler = Handler.objects.create(module="tests.none")
        conversation = Conversation.objects.create(handler=handler, person="reader@client.test")

        with transaction.atomic():
            Conversation.objects.filter(pk=conversation.pk).update(state="NEXT")
            together(
                self.store_without_waiting,
                lambda: self.without_waiting(
                    lambda: conversation.transitions.create(from_state="A", to_state="B")
                ),
            )

        assert Delivery.objects.count() == 1

    def test_who_settles_waits_for_who_releases_and_not_the_other_way(
        self, delivery, claim, worker, together
    ):
        delivery()
        [claimed] = claim()
        worker.stop()
        locked = threading.Event()

        def settle() -> None:
            locked.wait(DEADLINE)
            with pytest.raises(ClaimLost):
                Delivery.objects.settle({claimed: Outcome(status=Status.DONE)})

        def release() -> int:
            with transaction.atomic():
                list(Delivery.objects.select_for_update(no_key=True))
                locked.set()
                wait_until(self.somebody_waits)
                return Delivery.objects.release_dead()

        assert together(settle, release) == [None, 1]

    def test_who_settles_what_was_sent_waits_for_who_releases(
        self, delivery, claim, worker, together
    ):
        delivery()
        [claimed] = claim()
        worker.stop()
        taken = Taken(
            delivery=claimed.pk,
            claimed_at=claimed.claimed_at,
            ended_at=timezone.now(),
            reply="250 Taken",
        )
        released = threading.Event()

        def settle() -> int:
            released.wait(DEADLINE)
            return Delivery.objects.settle_taken([taken])

        def release() -> int:
            with transaction.atomic():
                count = Delivery.objects.release_dead()
                released.set()
                wait_until(self.somebody_waits)
                return count

        assert together(settle, release) == [1, 1]
        assert Delivery.objects.get().status == Status.DONE

    @pytest.mark.parametrize("limit", [50, 1])
    @pytest.mark.parametrize("verb", ["hold", "discard"])
    def test_who_claims_waits_for_an_operator_and_leaves_what_that_one_took(
        self, delivery, claim, together, verb, limit
    ):
        taken, other = delivery(sender="a@client.test"), delivery(sender="b@client.test")
        changed = threading.Event()

        def log(rows: list[Delivery]) -> None:
            changed.set()
            wait_until(self.somebody_waits)

        def operate() -> int:
            return operating.act(Delivery.objects.filter(pk=taken.pk), verb, "By hand", log=log)

        def claim_meanwhile() -> list[Delivery]:
            assert changed.wait(DEADLINE)
            return claim(limit)

        assert together(operate, claim_meanwhile) == [1, [other]]
        taken.refresh_from_db()
        ends = {"hold": Status.HELD, "discard": Status.FAILED}
        assert (taken.status, taken.reply, taken.attempts) == (ends[verb], "By hand", 0)

    @pytest.mark.parametrize("limit", [50, 1])
    def test_who_claims_waits_for_who_deletes_and_leaves_what_is_gone(
        self, delivery, claim, together, limit
    ):
        gone, other = delivery(sender="a@client.test"), delivery(sender="b@client.test")
        deleted = threading.Event()

        def delete() -> None:
            with transaction.atomic():
                gone.message.delete()
                deleted.set()
                wait_until(self.somebody_waits)

        def claim_meanwhile() -> list[Delivery]:
            assert deleted.wait(DEADLINE)
            return claim(limit)

        assert together(delete, claim_meanwhile) == [None, [other]]

    @staticmethod
    def somebody_waits() -> bool:
        """Say whether somebody waits for a lock of this connection."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks "
                "WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            )
            return cursor.fetchone()[0] > 0

    def store_without_waiting(self) -> None:
        mail = NewMail(raw=b"\r\n", sender="", recipients=["you@example.com"])
        self.without_waiting(lambda: Message.objects.store([mail]))

    @staticmethod
    def without_waiting(function: Callable[[], Any]) -> None:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '500ms'")
            function()


@pytest.mark.parametrize("model", [Delivery, Message, RawMessage])
def test_rows_read_in_plain_sql_are_those_of_the_orm(model):
    now, process = timezone.now(), Process.here(Process.Kind.WORKER)
    process.begin()
    message = Message.objects.create(
        created_at=now, size=1, verdict={"spf": ["pass", None]}, verp=True, sender="s@client.test"
    )
    RawMessage.objects.create(message=message, content=b"\0\xff")
    delivery = Delivery.objects.create(
        message=message,
        queue_id="incoming",
        recipient="r@client.test",
        status=Delivery.Status.CLAIMED,
        due_at=None,
        claim=uuid.uuid4(),
        claimed_by=process,
        claimed_at=now,
    )
    key = {Delivery: delivery.pk}.get(model, message.pk)
    table, column = model._meta.db_table, model._meta.pk.column

    rows = read(model.objects.all(), f"SELECT * FROM {table} WHERE {column} IN ({{ids}})", [key])

    known = model.objects.get(pk=key)
    assert list(rows) == [key]
    assert {name: value for name, value in vars(rows[key]).items() if name != "_state"} == {
        name: value for name, value in vars(known).items() if name != "_state"
    }
    assert rows[key]._state.db == known._state.db
    assert not rows[key]._state.adding
    assert not rows[key].get_deferred_fields()
