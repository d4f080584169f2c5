"""The operator's pages: what they show, what they let happen, and what they cost."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.files.storage import storages
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from tests.waiting import DEADLINE

CORPUS = Path(os.environ.get("MAIL_CORPUS", Path(__file__).parents[3] / "shared" / "corpus"))
LISTS = [
    *("queue", "message", "delivery", "conversation", "transition", "timer", "handler"),
    *("process", "suppression"),
]

pytestmark = pytest.mark.django_db


@pytest.fixture
def mailroom(db: None) -> Iterator[Any]:
    """Something of everything; see `tests.mailroom`."""
    from tests.mailroom import furnished

    with furnished() as mailroom:
        yield mailroom


@pytest.fixture
def admin_client(client: Client) -> Client:
    """Sign in somebody who may do everything, without the time that a password takes."""
    client.force_login(User.objects.create_superuser("admin"))
    return client


@pytest.fixture
def operator(client: Client) -> Callable[..., Client]:
    """Sign in somebody of the staff with these permissions: `operator("view_delivery")`."""

    def make(*codenames: str) -> Client:
        user = User.objects.create_user("operator", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client.force_login(user)
        return client

    return make


def page(row: Any) -> str:
    return reverse(f"admin:mailapp_{row._meta.model_name}_change", args=[row.pk])


def listing(model: str, **query: Any) -> str:
    return reverse(f"admin:mailapp_{model}_changelist", query=query)


def act(row: Any, verb: str) -> str:
    return reverse(f"admin:mailapp_{row._meta.model_name}_act", args=[row.pk, verb])


def text(response: Any) -> str:
    assert response.status_code == 200
    return response.content.decode()


def shown(response: Any) -> str:
    """The words of a page, without its markup."""
    return " ".join(re.sub(r"<[^>]*>", " ", text(response)).split())


class TestPages:
    @pytest.mark.parametrize("model", LISTS)
    def test_each_list_opens(self, admin_client, mailroom, model):
        assert admin_client.get(listing(model)).status_code == 200

    @pytest.mark.parametrize("model", LISTS)
    def test_each_list_opens_when_it_is_empty(self, admin_client, model):
        assert admin_client.get(listing(model)).status_code == 200

    def test_each_page_opens(self, admin_client, mailroom):
        rows = mailroom.rows

        opened = {name: admin_client.get(page(row)).status_code for name, row in rows.items()}

        assert opened == dict.fromkeys(rows, 200)

    def test_a_delivery_shows_its_attempts_with_their_tracebacks(self, admin_client, mailroom):
        words = shown(admin_client.get(page(mailroom.deferred)))

        assert "Deferred Attempt 1 at" in words
        assert "Traceback (most recent call last)" in words

    def test_why_no_smart_host_let_us_in_can_be_read_at_once(self, admin_client, mailroom):
        mailroom.deferred.attempt_set.update(error="smtp://mx.client.test: 535 No such user")

        html = text(admin_client.get(page(mailroom.deferred)))

        assert "535 No such user" in html
        assert "Traceback" not in html

    def test_a_delivery_links_to_what_it_caused(self, admin_client, mailroom):
        html = text(admin_client.get(page(mailroom.done)))

        assert page(mailroom.conversation) in html
        assert page(mailroom.done.effects.get().deliveries.get()) in html

    def test_a_delivery_links_to_the_one_that_it_waits_for(self, admin_client, mailroom, message):
        from mailapp.models import Delivery, Place

        later = message().deliveries.get()
        Delivery.objects.filter(pk=later.pk).update(status="deferred")
        for delivery in (mailroom.deferred, later):
            Place.objects.create(delivery=delivery, conversation=mailroom.conversation)

        html = text(admin_client.get(page(later)))
        head = admin_client.get(page(mailroom.deferred))

        assert page(mailroom.deferred) in html
        assert "after that one" in html
        assert "Waits for" not in shown(head)

    @pytest.mark.parametrize("name", ["done", "message", "conversation"])
    def test_a_page_leads_to_all_mail_and_all_conversations_of_its_person(
        self, admin_client, mailroom, name
    ):
        html = text(admin_client.get(page(mailroom.rows[name])))

        for model in ("delivery", "conversation"):
            assert f'href="{listing(model, q="reader-sunday@client.test")}"' in html

    def test_the_null_sender_is_nobody(self, admin_client, message):
        words = text(admin_client.get(page(message(sender=""))))

        assert "<bdi>&lt;&gt;</bdi></div>" in words
        assert "?q=" not in words

    def test_a_message_links_to_what_caused_it(self, admin_client, mailroom):
        html = text(admin_client.get(page(mailroom.done.effects.get())))

        assert page(mailroom.done) in html

    def test_a_conversation_shows_its_data_and_its_history(self, admin_client, mailroom):
        words = shown(admin_client.get(page(mailroom.conversation)))

        assert "&quot;day&quot;: &quot;Sunday&quot;" in words
        assert "START → ASKED" in words
        assert "ASKED → CONFIRMING" in words

    def test_a_conversation_shows_what_will_run_and_when(self, admin_client, mailroom):
        words = shown(admin_client.get(page(mailroom.conversation)))

        assert re.search("remind after CONFIRMING .* in 3 d 0", words)
        assert "expire after CONFIRMING Held 8 KeyError" in words

    def test_a_conversation_shows_that_a_timer_moved_it(self, admin_client, mailroom):
        mailroom.conversation.transitions.create(from_state="A", to_state="B", cause="timer")

        assert "A → B Timer" in shown(admin_client.get(page(mailroom.conversation)))

    def test_a_handler_shows_its_description_and_its_routes(self, admin_client, mailroom):
        words = shown(admin_client.get(page(mailroom.handler)))

        assert "Answers what the opening hours are." in words
        assert "START state (topic)@(host)" in words
        assert "COUNT stateless (anything)@(host)" in words
        assert "Timers expire after 3 d in CONFIRMING" in words
        assert "Captures anything .+ token [a-z0-9]+ topic hours" in words

    def test_a_process_shows_what_it_has_in_hand(self, admin_client, mailroom):
        from mailapp.models import Delivery

        [claimed] = Delivery.objects.claim("incoming", mailroom.process, 1)

        assert page(claimed) in text(admin_client.get(page(mailroom.process)))

    @pytest.mark.parametrize(
        ("name", "purpose", "command"),
        [
            ("incoming", "handlers", "runmail"),
            ("outgoing", "relay", "runmail"),
            ("archive", "handlers", "runworker --queue archive"),
        ],
    )
    def test_a_queue_says_how_to_start_who_works_it(self, admin_client, name, purpose, command):
        from mailapp.models import Queue

        queue, _ = Queue.objects.get_or_create(name=name, defaults={"purpose": purpose})

        assert f"start them with manage.py {command} ." in shown(admin_client.get(page(queue)))

    def test_a_queue_says_that_an_engine_works_it(self, admin_client, settings):
        from mailapp.models import Queue

        settings.MAIL = {**settings.MAIL, "ENGINE": "tasks"}

        words = shown(admin_client.get(page(Queue.objects.get(name="incoming"))))

        assert "Its workers are those of the engine tasks, which come and go." in words

    def test_a_queue_that_nobody_works_is_neither_started_nor_paused(self, admin_client):
        from mailapp.models import Queue

        queue = Queue.objects.get(name="undeliverable")

        html = text(admin_client.get(page(queue)))
        admin_client.post(act(queue, "pause"))

        assert "Processes</h2>" not in html
        assert act(queue, "pause") not in html
        queue.refresh_from_db()
        assert not queue.paused

    def test_a_queue_that_was_paused_before_it_was_held_is_resumed(self, admin_client):
        from mailapp.models import Queue

        queue = Queue.objects.get(name="undeliverable")
        queue.pause()

        admin_client.post(act(queue, "resume"))

        queue.refresh_from_db()
        assert not queue.paused


class TestOverview:
    def test_says_that_all_is_well(self, admin_client, process, message):
        process("receiver", "")
        process("worker", "incoming")
        process("relay", "outgoing")
        message()

        assert "All is well." in shown(admin_client.get("/admin/"))

    def test_names_what_is_not_well(self, admin_client, mailroom):
        mailroom.queued.queue.pause()
        type(mailroom.queued).objects.filter(pk=mailroom.queued.pk).update(
            due_at=timezone.now() - timedelta(minutes=5)
        )

        words = shown(admin_client.get("/admin/"))

        assert "No receiver is alive: no mail is taken in." in words
        assert "The queue incoming is paused." in words
        assert "Mail in the queue incoming was due 5 min ago." in words
        assert "No relay is alive for the queue outgoing." in words
        assert "was last heard 3 h ago." in words
        assert "Held in the queue undeliverable: 1." in words
        assert "Timers that failed at every try: 1." in words

    def test_mail_that_is_kept_to_be_looked_at_is_not_late(self, admin_client, process, delivery):
        from mailapp.models import Delivery, Queue

        for kind, queue in (("receiver", ""), ("worker", "incoming"), ("relay", "outgoing")):
            process(kind, queue)
        copies = Queue.objects.create(name="copies", purpose=Queue.Purpose.HELD)
        kept, an_hour_ago = delivery(queue=copies.name), timezone.now() - timedelta(hours=1)
        Delivery.objects.filter(pk=kept.pk).update(due_at=an_hour_ago)

        assert "All is well." in shown(admin_client.get("/admin/"))

    @pytest.mark.parametrize("verb", ["retry", "release"])
    def test_mail_that_is_queued_again_is_not_late(self, admin_client, process, delivery, verb):
        from mailapp.models import Delivery, Outcome

        process("receiver", "")
        process("relay", "outgoing")
        stored = Delivery.objects.filter(pk=delivery().pk)
        stored.update(created_at=timezone.now() - timedelta(hours=1))
        if verb == "retry":
            claimed = Delivery.objects.claim("incoming", process("worker", "incoming"), 1)
            Delivery.objects.settle({claimed[0]: Outcome(status=Delivery.Status.FAILED)})
            stored.retry()
        else:
            process("worker", "incoming")
            stored.hold("Wait")
            stored.release()

        assert "All is well." in shown(admin_client.get("/admin/"))

    def test_workers_of_an_engine_need_not_be_there_but_its_sweeper(
        self, admin_client, process, settings
    ):
        settings.MAIL = {**settings.MAIL, "ENGINE": "tasks"}
        process("receiver", "")
        process("relay", "outgoing")

        before = shown(admin_client.get("/admin/"))
        process("sweeper", "")
        after = shown(admin_client.get("/admin/"))

        assert "No sweeper is alive for the queue incoming." in before
        assert "All is well." in after

    def test_shows_the_last_failures(self, admin_client, mailroom):
        html = text(admin_client.get("/admin/mailapp/"))

        assert page(mailroom.failed) in html
        assert page(mailroom.held) in html
        assert page(mailroom.deferred) not in html

    def test_tells_nothing_to_whom_may_not_see_the_deliveries(self, operator, mailroom):
        words = shown(operator("view_queue", "view_process").get("/admin/"))

        assert "Last failures" not in words

    def test_counts_no_further_than_the_cap(self, admin_client, message):
        message(recipients=["you@example.com"] * 10_001)

        assert "10000+" in shown(admin_client.get("/admin/"))


class TestLists:
    """Their cost does not grow with the rows, and they find by index alone."""

    @pytest.fixture
    def queries(self, admin_client) -> Callable[[str], list[str]]:
        def run(path: str) -> list[str]:
            with CaptureQueriesContext(connection) as captured:
                assert admin_client.get(path).status_code == 200
            return [query["sql"] for query in captured]

        return run

    @pytest.fixture
    def add_rows(self, mailroom, message) -> Callable[[int], None]:
        from mailapp.models import Conversation, Process

        def add(count: int) -> None:
            for n in range(count):
                person = f"person-{n}@client.test"
                mail = message(sender=person, recipients=["a@b.test", "c@d.test"])
                conversation = Conversation.objects.create(handler=mailroom.handler, person=person)
                conversation.transitions.create(delivery=mail.deliveries.first())
                conversation.timers.create(due_at=timezone.now())
                Process.objects.start(Process.Kind.WORKER, "incoming")

        return add

    @pytest.mark.parametrize("model", LISTS)
    def test_a_list_takes_as_many_queries_for_a_hundred_rows(self, queries, add_rows, model):
        queries(listing(model))  # content types and the like are remembered from here on
        few = queries(listing(model))

        add_rows(60)  # more than a page

        assert len(queries(listing(model))) <= len(few) + 1  # the ids of the page

    def test_the_overview_takes_as_many_queries_for_a_hundred_rows(self, queries, add_rows):
        few = queries("/admin/mailapp/")

        add_rows(60)

        assert len(queries("/admin/mailapp/")) == len(few)

    @pytest.mark.parametrize("model", LISTS)
    def test_no_list_loads_the_bytes(self, queries, mailroom, model):
        assert "mailapp_rawmessage" not in " ".join(queries(listing(model)))

    @pytest.mark.parametrize("model", LISTS)
    def test_no_list_counts_without_an_end(self, queries, mailroom, model):
        counts = [sql for sql in queries(listing(model)) if "COUNT(" in sql]

        assert counts
        assert all("LIMIT 10001" in sql for sql in counts)

    @pytest.mark.parametrize(
        ("model", "query"),
        [
            ("delivery", "queue=incoming"),
            ("delivery", "status=failed"),
            ("delivery", "queue=incoming&status=queued"),
            ("delivery", "handler=tests.hours&queue=undeliverable&status=held"),
            ("delivery", "handler=tests.hours&q=a@b.test"),
            ("delivery", "q=a@b.test"),
            ("delivery", "message={done.message_id}"),
            ("message", "q=a@b.test"),
            ("message", "cause={done.pk}"),
            ("conversation", "q=person-1@client.test"),
            ("conversation", "handler__id__exact={handler.pk}"),
            ("conversation", "handler__id__exact={handler.pk}&state=ASKED"),
            ("transition", "conversation={conversation.pk}"),
            ("transition", "delivery={done.pk}"),
            ("timer", ""),
            ("timer", "standing=held"),
            ("timer", "q=person-1@client.test"),
            ("timer", "handler=tests.hours"),
            ("timer", "handler=tests.hours&standing=held"),
        ],
    )
    def test_a_list_finds_its_rows_by_an_index(self, queries, mailroom, add_rows, model, query):
        add_rows(60)
        path = f"{listing(model)}?{query.format(**vars(mailroom))}"

        plans = "\n".join(map(self.explain, queries(path)))

        assert not re.search(rf"(Seq Scan on|SCAN) mailapp_{model}(?! USING)", plans)

    @pytest.mark.parametrize("model", ["delivery", "timer"])
    def test_a_handler_is_looked_for_in_a_range_of_ids(self, queries, mailroom, model):
        asked = queries(listing(model, handler="tests.hours"))

        filtered = [sql for sql in asked if '"mailapp_handler"."module" = ' in sql]
        assert filtered
        assert all(f'"mailapp_{model}"."id" >= ' in sql for sql in filtered)

    @staticmethod
    def explain(sql: str) -> str:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":  # which would rather read so few rows at once
                cursor.execute("SET LOCAL enable_seqscan = off")
            plan = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
            cursor.execute(f"{plan} {sql}")
            return "\n".join(str(row[-1]) for row in cursor.fetchall())

    def test_a_delivery_is_found_by_recipient_and_by_who_wrote(self, admin_client, mailroom):
        by_recipient = admin_client.get(listing("delivery", q=" Hours@example.com "))
        by_person = admin_client.get(listing("delivery", q="Reader-Sunday@client.test"))

        assert page(mailroom.done) in text(by_recipient)
        assert page(mailroom.held) in text(by_recipient)
        assert page(mailroom.done) in text(by_person)
        assert page(mailroom.held) not in text(by_person)

    @pytest.mark.parametrize("term", ["<Sunday@client.test>", "reader-sunday@client.test"])
    def test_a_message_is_found_by_its_id_and_by_address(self, admin_client, mailroom, term):
        html = text(admin_client.get(listing("message", q=term)))

        assert page(mailroom.done.message) in html
        assert page(mailroom.held.message) not in html

    def test_a_conversation_is_found_by_person(self, admin_client, mailroom):
        html = text(admin_client.get(listing("conversation", q="Reader-Sunday@client.test")))

        assert "1 conversation" in html
        assert page(mailroom.conversation) in html

    @pytest.mark.parametrize(
        ("model", "found"),
        [
            ("delivery", "whole addresses"),
            ("message", "whole addresses and Message-IDs"),
            ("conversation", "whole addresses"),
            ("timer", "whole addresses"),
            ("suppression", "whole addresses"),
        ],
    )
    def test_a_search_that_finds_nothing_says_what_is_found(self, admin_client, model, found):
        empty = shown(admin_client.get(listing(model)))
        searched = shown(admin_client.get(listing(model, q="reader")))

        assert "are found." not in empty
        assert f"here. Only {found} are found." in searched

    def test_conversations_are_listed_with_their_handler_and_their_key(
        self, admin_client, mailroom
    ):
        mailroom.conversation.key = "tuesday"
        mailroom.conversation.save()

        words = shown(admin_client.get(listing("conversation")))

        assert "reader-sunday@client.test tests.hours, key tuesday CONFIRMING" in words
        assert "Version" not in words

    def test_a_timer_is_listed_with_why_it_failed(self, admin_client, mailroom):
        words = shown(admin_client.get(listing("timer", standing="held")))

        assert "expire after CONFIRMING KeyError: " in words

    def test_the_timer_that_is_due_next_is_the_first(self, admin_client, mailroom):
        from mailapp.models import Timer

        conversation, now = mailroom.conversation, timezone.now()
        for function, days in [("late", 9), ("soon", 1), ("between", 2)]:
            due_at = now + timedelta(days=days)
            Timer.objects.create(
                conversation=conversation, state="ASKED", function=function, due_at=due_at
            )

        words = shown(admin_client.get(listing("timer")))

        assert re.findall(r"(\w+) after", words) == ["soon", "between", "remind", "late"]

    @pytest.mark.parametrize(
        ("query", "functions"),
        [
            ({"q": " Reader-Sunday@client.test"}, {"expire", "remind"}),
            ({"q": "reader-sunday@client.test", "standing": "waiting"}, {"remind"}),
            ({"q": "other@client.test"}, set()),
            ({"handler": "tests.hours"}, {"remind"}),
            ({"handler": "tests.hours", "standing": "held"}, {"expire"}),
            ({"handler": "mailapp.handlers.log", "standing": "all"}, set()),
            ({"standing": "all"}, {"expire", "remind"}),
        ],
    )
    def test_timers_are_found_by_person_and_by_handler(
        self, admin_client, mailroom, query, functions
    ):
        words = shown(admin_client.get(listing("timer", **query)))

        assert set(re.findall(r"(\w+) after", words)) == functions

    def test_deliveries_are_filtered_by_queue_and_status(self, admin_client, mailroom):
        html = text(admin_client.get(listing("delivery", queue="incoming", status="deferred")))

        assert page(mailroom.deferred) in html
        assert page(mailroom.done) not in html

    def test_deliveries_are_filtered_by_handler(self, admin_client, mailroom):
        mailroom.held.handler = mailroom.handler
        mailroom.held.save()
        of_handler = {"handler": "tests.hours"}

        everything = text(admin_client.get(listing("delivery", **of_handler)))
        held = text(admin_client.get(listing("delivery", **of_handler, status="held")))
        found = text(admin_client.get(listing("delivery", **of_handler, q="a@b.test")))

        assert page(mailroom.done) in everything
        assert page(mailroom.held) in everything
        assert page(mailroom.failed) not in everything
        assert page(mailroom.done) not in held
        assert page(mailroom.held) in held
        assert "No deliveries here." in found

    def test_the_held_mail_of_one_handler_is_retried(self, admin_client, mailroom, message):
        others = message().deliveries.get()
        for delivery in (mailroom.held, others):
            type(others).objects.filter(pk=delivery.pk).update(status="held", due_at=None)
        type(others).objects.filter(pk=mailroom.held.pk).update(handler=mailroom.handler)
        everything = {"action": "retry", "select_across": 1, "index": 0, "_selected_action": 0}

        admin_client.post(listing("delivery", status="held", handler="tests.hours"), everything)

        mailroom.held.refresh_from_db()
        others.refresh_from_db()
        assert (mailroom.held.status, others.status) == ("queued", "held")

    def test_a_handler_is_looked_for_no_further_than_the_cap(
        self, admin_client, mailroom, monkeypatch
    ):
        monkeypatch.setattr("mailapp.admin.filters.CAP", 3)  # the hostile mail and its answers

        older = text(admin_client.get(listing("delivery", handler="tests.hours")))
        by_person = text(
            admin_client.get(listing("delivery", handler="tests.hours", q=mailroom.done.person))
        )

        assert page(mailroom.done) not in older
        assert page(mailroom.done) in by_person

    def test_conversations_are_filtered_by_a_state_of_their_handler(self, admin_client, mailroom):
        of_handler = {"handler__id__exact": mailroom.handler.pk}

        before = text(admin_client.get(listing("conversation")))
        offered = text(admin_client.get(listing("conversation", **of_handler)))
        found = text(admin_client.get(listing("conversation", **of_handler, state="CONFIRMING")))
        missed = text(admin_client.get(listing("conversation", **of_handler, state="ASKED")))

        assert "state=" not in before
        assert "state=ASKED" in offered
        assert "state=COUNT" not in offered
        assert page(mailroom.conversation) in found
        assert "No conversations here." in missed

    @pytest.mark.parametrize("handler", ["", "x", "²", "0"])
    def test_a_state_of_no_handler_is_not_looked_for(self, admin_client, mailroom, handler):
        query = {"state": "ASKED", "handler__id__exact": handler} if handler else {"state": "ASKED"}

        assert admin_client.get(listing("conversation", **query), follow=True).status_code == 200

    @pytest.mark.parametrize(("life", "count"), [("alive", 1), ("silent", 1), ("stopped", 0)])
    def test_processes_are_filtered_by_life(self, admin_client, mailroom, life, count):
        response = admin_client.get(listing("process", life=life))

        assert response.context["cl"].result_count == count

    def test_a_later_page_shows_the_older_rows(self, admin_client, message):
        rows = [message() for _ in range(51)]

        html = text(admin_client.get(listing("message", p=2)))

        assert page(rows[0]) in html
        assert page(rows[1]) not in html


class TestVerbs:
    @pytest.mark.parametrize(
        ("name", "verb", "permission", "status"),
        [
            ("held", "retry", "retry_delivery", "queued"),
            ("queued", "hold", "hold_delivery", "held"),
            ("held", "release", "hold_delivery", "queued"),
            ("deferred", "discard", "discard_delivery", "failed"),
        ],
    )
    def test_a_delivery_obeys_who_has_the_permission(
        self, operator, mailroom, name, verb, permission, status
    ):
        delivery = getattr(mailroom, name)

        response = operator("view_delivery", permission).post(act(delivery, verb))

        assert response.headers["Location"] == page(delivery)
        delivery.refresh_from_db()
        assert delivery.status == status
        assert LogEntry.objects.get().object_id == str(delivery.pk)

    @pytest.mark.parametrize("verb", ["retry", "hold", "release", "discard"])
    def test_a_delivery_obeys_nobody_else(self, operator, mailroom, verb):
        response = operator("view_delivery", "change_delivery").post(act(mailroom.held, verb))

        assert response.status_code == 403
        mailroom.held.refresh_from_db()
        assert mailroom.held.status == "held"
        assert not LogEntry.objects.exists()

    def test_a_page_offers_what_its_row_is_open_to(self, operator, mailroom):
        client = operator("view_delivery", "retry_delivery", "hold_delivery")

        held = text(client.get(page(mailroom.held)))

        assert act(mailroom.held, "retry") in held
        assert act(mailroom.held, "release") in held
        assert act(mailroom.held, "hold") not in held
        assert act(mailroom.held, "discard") not in held

    def test_a_list_offers_what_the_operator_may_do(self, operator, mailroom):
        html = text(operator("view_delivery", "hold_delivery").get(listing("delivery")))

        assert re.findall(r'<option value="(\w+)"', html) == ["hold", "release"]

    def test_a_delivery_that_is_done_stays_so(self, admin_client, mailroom):
        response = admin_client.post(act(mailroom.done, "retry"), follow=True)

        assert "Retried no deliveries." in shown(response)
        mailroom.done.refresh_from_db()
        assert mailroom.done.status == "done"
        assert not LogEntry.objects.exists()

    def test_a_held_timer_is_retried(self, operator, mailroom):
        client = operator("view_timer", "retry_timer")

        response = client.post(act(mailroom.timer, "retry"))

        assert response.headers["Location"] == page(mailroom.conversation)
        mailroom.timer.refresh_from_db()
        assert mailroom.timer.due_at <= timezone.now()
        assert mailroom.timer.tries == 0
        assert LogEntry.objects.get().change_message == "Retried"

    def test_a_held_timer_is_discarded(self, operator, mailroom):
        from mailapp.models import Timer

        operator("view_timer", "discard_timer").post(act(mailroom.timer, "discard"))

        assert [timer.function for timer in Timer.objects.all()] == ["remind"]
        assert LogEntry.objects.get().change_message == "Discarded"

    @pytest.mark.parametrize("verb", ["retry", "discard"])
    def test_a_timer_obeys_nobody_else(self, operator, mailroom, verb):
        response = operator("view_timer", "change_timer").post(act(mailroom.timer, verb))

        assert response.status_code == 403
        mailroom.timer.refresh_from_db()
        assert mailroom.timer.due_at is None

    def test_a_timer_that_waits_is_left_alone(self, admin_client, mailroom):
        waiting = mailroom.conversation.timers.get(function="remind")

        response = admin_client.post(act(waiting, "discard"), follow=True)

        assert "Discarded no timers." in shown(response)
        assert mailroom.conversation.timers.count() == 2

    def test_a_verb_is_not_done_by_following_a_link(self, admin_client, mailroom):
        assert admin_client.get(act(mailroom.held, "retry")).status_code == 405

    def test_a_verb_that_does_not_exist_is_not_found(self, admin_client, mailroom):
        assert admin_client.post(act(mailroom.held, "delete")).status_code == 404

    def test_a_whole_list_is_retried_in_order_of_arrival(self, admin_client, message):
        from mailapp.models import Delivery

        message(recipients=[f"{n}@example.com" for n in range(1001)])
        Delivery.objects.all().hold("a test")
        everything = {"action": "hold", "select_across": 1, "index": 0, "_selected_action": 0}

        response = admin_client.post(
            listing("delivery", status="held"), everything | {"action": "retry"}, follow=True
        )

        assert "Retried 1001 deliveries." in shown(response)
        assert Delivery.objects.filter(status="queued").count() == 1001
        assert LogEntry.objects.count() == 1001

    def test_a_queue_is_paused_and_resumed(self, operator, mailroom):
        client = operator("view_queue", "pause_queue")
        queue = mailroom.queued.queue

        client.post(act(queue, "pause"))
        queue.refresh_from_db()
        assert queue.paused

        client.post(act(queue, "resume"))
        queue.refresh_from_db()
        assert not queue.paused
        assert [entry.change_message for entry in LogEntry.objects.order_by("id")] == [
            "Paused",
            "Resumed",
        ]

    def test_a_handler_is_switched_off_in_the_running_processes(self, operator, mailroom):
        from mailapp.registry import current_router

        assert current_router(max_age=0).accepts("hours@localhost")

        operator("view_handler", "change_handler").post(act(mailroom.handler, "switch_off"))

        assert not current_router(max_age=0).accepts("hours@localhost")
        assert LogEntry.objects.get().change_message == "Switched off"

    def test_handlers_are_reordered_in_their_list(self, operator, mailroom):
        form = {
            "form-TOTAL_FORMS": 1,
            "form-INITIAL_FORMS": 1,
            "form-0-id": mailroom.handler.pk,
            "form-0-order": 7,
            "form-0-enabled": "on",
            "_save": "Save",
        }

        operator("view_handler", "change_handler").post(listing("handler"), form)

        mailroom.handler.refresh_from_db()
        assert mailroom.handler.order == 7
        assert LogEntry.objects.get().get_change_message() == "Changed Order."

    def test_a_handler_is_only_looked_at_by_whom_may_not_change_it(self, operator, mailroom):
        client = operator("view_handler")

        assert 'name="order"' not in text(client.get(page(mailroom.handler)))
        assert client.post(page(mailroom.handler), {"order": 7}).status_code == 403
        assert client.post(act(mailroom.handler, "switch_off")).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_a_retry_wakes_who_works_the_queue(admin_client, mailroom):
    from mailapp import wakeup

    with wakeup.listen("incoming") as bell, ThreadPoolExecutor() as pool:
        woken = pool.submit(bell.wait, 3600)

        admin_client.post(act(mailroom.held, "retry"))

        try:
            woken.result(DEADLINE)
        finally:
            bell.wake()


class TestMoving:
    def move(self, client: Client, conversation: Any, state: str) -> Any:
        path = reverse("admin:mailapp_conversation_move", args=[conversation.pk])
        form = {"state": state, "version": conversation.version}
        return client.post(path, form, follow=True)

    def test_an_operator_moves_a_conversation(self, operator, mailroom):
        client = operator("view_conversation", "move_conversation")

        response = self.move(client, mailroom.conversation, "ASKED")

        assert "Moved from CONFIRMING to ASKED." in shown(response)
        last = mailroom.conversation.transitions.last()
        assert (last.from_state, last.to_state, last.cause) == ("CONFIRMING", "ASKED", "operator")
        assert last.operator.username == "operator"
        assert LogEntry.objects.get().change_message == "Moved from CONFIRMING to ASKED"

    @pytest.mark.parametrize("state", ["", "NOWHERE", "COUNT", "CONFIRMING"])
    def test_only_another_state_of_the_handler_will_do(self, admin_client, mailroom, state):
        self.move(admin_client, mailroom.conversation, state)

        mailroom.conversation.refresh_from_db()
        assert mailroom.conversation.state == "CONFIRMING"
        assert mailroom.conversation.transitions.count() == 2

    def test_a_mail_that_moved_it_meanwhile_has_its_way(self, admin_client, mailroom):
        type(mailroom.conversation).objects.update(state="ASKED", version=9)

        response = self.move(admin_client, mailroom.conversation, "START")

        assert "Not moved: it has changed since you looked." in shown(response)
        mailroom.conversation.refresh_from_db()
        assert mailroom.conversation.state == "ASKED"

    def test_it_takes_the_permission(self, operator, mailroom):
        client = operator("view_conversation", "change_conversation")

        assert self.move(client, mailroom.conversation, "ASKED").status_code == 403
        assert 'name="state"' not in text(client.get(page(mailroom.conversation)))


class TestReadOnly:
    @pytest.mark.parametrize("model", [model for model in LISTS if model != "suppression"])
    def test_nothing_is_added(self, admin_client, model):
        assert admin_client.get(reverse(f"admin:mailapp_{model}_add")).status_code == 403

    def test_nothing_is_deleted(self, admin_client, mailroom):
        rows = [row for name, row in mailroom.rows.items() if name != "suppression"]
        paths = [page(row).replace("/change/", "/delete/") for row in rows]

        assert {admin_client.post(path, {"post": "yes"}).status_code for path in paths} == {403}

    def test_only_handlers_are_edited(self, admin_client, mailroom):
        rows = [row for name, row in mailroom.rows.items() if name != "handler"]

        assert {admin_client.post(page(row), {}).status_code for row in rows} == {403}


def view(message: Any, name: str, *arguments: int) -> str:
    return reverse(f"admin:mailapp_message_{name}", args=[message.pk, *arguments])


class TestStrangersMail:
    def test_no_page_carries_a_strangers_markup(self, admin_client, mailroom):
        paths = [listing(model) for model in LISTS]
        paths += [page(row) for row in mailroom.rows.values()]
        delivery = mailroom.hostile.deliveries.get()
        paths += ["/admin/", page(delivery), *map(page, delivery.message.deliveries.all())]

        pages = "\n".join(text(admin_client.get(path)) for path in paths)

        assert "&lt;script&gt;alert(1)" in pages
        assert "<script>alert" not in pages
        assert "onerror=alert(1)>" not in pages
        assert "\u202e" not in pages
        assert "[U+202E]" in pages

    def test_html_that_would_take_minutes_to_clean_is_shown_as_its_text(self):
        from mailapp.admin.letter import Letter

        tangled = "".join(f"<font color={number}><p>" for number in range(20_000))

        html = Letter(f"Content-Type: text/html\r\n\r\n{tangled}1 &lt; 2".encode()).html

        assert html.strip() == "<pre>1 &lt; 2\n</pre>"

    def test_html_is_clean_and_cannot_run_nor_fetch(self, admin_client, mailroom):
        response = admin_client.get(view(mailroom.hostile, "html"))

        html = text(response)
        assert "A dear friend" in html
        body = re.sub(' data-target="[^"]*"', "", html.partition("<body>")[2])
        for forbidden in ["script", "style", "href", "src", "onclick", "form", "frame", "https:"]:
            assert forbidden not in body
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'; sandbox" in policy
        assert response.headers["X-Frame-Options"] == "SAMEORIGIN"

    @pytest.mark.parametrize(
        ("link", "shown"),
        [
            (
                'href="https://client.test/?a=1&amp;b"',
                'data-target="https://client.test/?a=1&amp;b"',
            ),
            ('title=">" href="//client.test"', None),
            ("href='https://client.test/\"onclick=x'", None),
            (f'href="https://client.test/{"x" * 200}"', f'{"x" * 79}…"'),
            ('href="https://client.test/&#x202e;moc"', "https://client.test/[U+202E]moc"),
            ('href="javascript:alert(1)"', None),
            ('data-target="https://bank.test"', None),
        ],
    )
    def test_a_link_says_where_it_would_lead_and_leads_nowhere(self, message, link, shown):
        from mailapp.admin.letter import Letter

        html = Letter(f"Content-Type: text/html\r\n\r\n<a {link}>bank.test</a>".encode()).html

        [tag] = re.findall("<a[^<]*</a>", html)
        assert tag.endswith(">bank.test</a>")
        assert " href=" not in tag
        assert "onclick" not in re.sub('"[^"]*"', "", tag)
        assert "bank.test" not in tag.removesuffix("bank.test</a>")
        assert shown is None or shown in tag

    @pytest.mark.parametrize(("lines", "is_short"), [(3, True), (300, False)])
    def test_a_short_html_part_has_a_low_frame(self, admin_client, message, lines, is_short):
        raw = b"Content-Type: text/html\r\n\r\n" + b"<p>A line.</p>\r\n" * lines

        html = text(admin_client.get(page(message(raw=raw))))

        assert ("mail-html-short" in html) is is_short

    def test_what_became_of_a_mail_comes_before_what_it_says(self, admin_client, mailroom):
        words = shown(admin_client.get(page(mailroom.hostile)))

        assert words.index("What became of it") < words.index("Headers")

    def test_html_is_framed_in_a_sandbox(self, admin_client, mailroom):
        html = text(admin_client.get(page(mailroom.hostile)))

        [frame] = re.findall(r"<iframe[^>]*>", html)
        assert " sandbox " in frame
        assert "allow-" not in frame

    @pytest.mark.parametrize(
        ("number", "name"),
        [(0, "_invoice_fdp.exe"), (1, "_script_alert(1)__script_.html")],
    )
    def test_an_attachment_is_a_file_and_nothing_else(self, admin_client, mailroom, number, name):
        response = admin_client.get(view(mailroom.hostile, "part", number))

        assert response.status_code == 200
        assert response.headers["Content-Disposition"] == f'attachment; filename="{name}"'
        assert response.headers["Content-Type"] == "application/octet-stream"
        assert response.headers["X-Content-Type-Options"] == "nosniff"

    def test_an_attachment_that_is_not_there_is_not_found(self, admin_client, mailroom):
        assert admin_client.get(view(mailroom.hostile, "part", 2)).status_code == 404

    def test_the_source_is_plain_text(self, admin_client, mailroom):
        from tests.mailroom import HOSTILE

        response = admin_client.get(view(mailroom.hostile, "source"))

        assert response.content == HOSTILE
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"

    def test_the_source_is_downloaded_byte_for_byte(self, admin_client, mailroom):
        from tests.mailroom import HOSTILE

        response = admin_client.get(view(mailroom.hostile, "eml"))

        assert response.content == HOSTILE
        disposition = f'attachment; filename="message-{mailroom.hostile.pk}.eml"'
        assert response.headers["Content-Disposition"] == disposition

    @pytest.mark.parametrize(
        ("name", "arguments"), [("source", ()), ("eml", ()), ("html", ()), ("part", (0,))]
    )
    def test_a_mail_is_read_by_nobody_without_permission(self, operator, mailroom, name, arguments):
        client = operator("view_delivery", "view_queue")

        assert client.get(view(mailroom.hostile, name, *arguments)).status_code == 403

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"\r\n",
            b"\x00\xff\xfe",
            b"Content-Type: text/plain; charset=unicode_escape\r\n\r\n\\ud800",
            b"Content-Type: text/html; charset=raw_unicode_escape\r\n\r\n\\udc00<b>x",
            b"Content-Type: text/html; charset=hex\r\n\r\nzz",
            b"Content-Type: multipart/mixed\r\n\r\nno boundary",
            b"Subject: =?utf-8?b?/////w==?=\r\nContent-Transfer-Encoding: base64\r\n\r\n=====",
            pytest.param(
                b"".join(
                    b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n)
                    for n in range(2000)
                ),
                marks=pytest.mark.any_database,
            ),
            pytest.param(
                b"Content-Type: text/html\r\n\r\n" + b"<div>" * 20_000,
                marks=pytest.mark.any_database,
            ),
            b"X: \xf0\x9f\x92\xa9\xed\xa0\x80\r\n\r\n\xed\xa0\x80",
        ],
        ids=lambda raw: repr(raw[:40]),
    )
    def test_a_mail_of_any_shape_has_a_page(self, admin_client, message, raw):
        stored = message(raw=raw)

        assert admin_client.get(page(stored)).status_code == 200
        assert admin_client.get(view(stored, "html")).status_code == 200
        assert admin_client.get(view(stored, "source")).content == raw

    @pytest.mark.any_database
    @pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus in {CORPUS}")
    def test_each_mail_of_the_corpus_has_a_page(self, admin_client, message):
        names = (CORPUS / "MESSAGES.txt").read_text().split("\n")
        for name in filter(None, names):
            raw = (CORPUS / name).read_bytes()
            stored = message(raw=raw)

            response = admin_client.get(page(stored))

            assert response.status_code == 200, name
            assert admin_client.get(view(stored, "html")).status_code == 200, name
            for number in range(len(response.context["letter"].attachments)):
                assert admin_client.get(view(stored, "part", number)).status_code == 200, name

    def test_a_large_mail_is_read_from_its_file(self, admin_client, message):
        raw = b"Subject: large\r\n\r\n" + b"A line of a large mail.\r\n" * 60_000

        stored = message(raw=raw)

        assert stored.raw_message.file
        words = shown(admin_client.get(page(stored)))
        assert "Cut here; the source has all of it." in words
        assert admin_client.get(view(stored, "source")).content == raw

    def test_a_message_whose_bytes_are_gone_says_so(self, admin_client, message):
        stored = message(raw=b"Subject: large\r\n\r\n" + b"x" * 2_000_000)
        storages["mail"].delete(stored.raw_message.file)

        assert "The bytes of this message are gone." in shown(admin_client.get(page(stored)))
        assert admin_client.get(view(stored, "source")).status_code == 404

    def test_a_mail_to_many_shows_the_first_hundred(self, admin_client, message):
        stored = message(recipients=[f"{n}@example.com" for n in range(101)])

        html = text(admin_client.get(page(stored)))

        assert "The first 100." in html
        assert listing("delivery", message=stored.pk) in html


class TestSuppressions:
    FIELDS = {
        "address": "Reader@client.test",
        "reason": "Asked to be left alone",
        "expires_at_0": "",
        "expires_at_1": "",
    }

    def test_an_operator_suppresses_an_address(self, operator):
        from mailapp.models import Suppression

        client = operator("view_suppression", "add_suppression")
        client.post(reverse("admin:mailapp_suppression_add"), self.FIELDS)

        suppression = Suppression.objects.get()
        assert suppression.address == "reader@client.test"
        assert suppression.cause == Suppression.Cause.OPERATOR
        assert suppression.expires_at is None

    @pytest.mark.parametrize("text", ["Reader <reader@client.test>", "reader", "a@b, c@d"])
    def test_what_is_no_address_would_suppress_nobody_and_is_not_taken(self, operator, text):
        from mailapp.models import Suppression

        client = operator("view_suppression", "add_suppression")
        answer = client.post(
            reverse("admin:mailapp_suppression_add"), {**self.FIELDS, "address": text}
        )

        assert "It is no address" in answer.content.decode()
        assert not Suppression.objects.exists()

    @pytest.mark.parametrize(("year", "is_taken"), [("2020", False), ("2120", True)])
    def test_one_that_is_over_before_it_begins_is_not_taken(self, operator, year, is_taken):
        from mailapp.models import Suppression

        client = operator("view_suppression", "add_suppression")
        moment = {"expires_at_0": f"{year}-01-01", "expires_at_1": "12:00"}
        answer = client.post(
            reverse("admin:mailapp_suppression_add"), {**self.FIELDS, **moment}, follow=True
        )

        assert ("This is over already." in answer.content.decode()) is not is_taken
        assert Suppression.objects.exists() is is_taken

    def test_a_domain_beyond_ascii_is_suppressed_as_mail_is_addressed(self, operator):
        from mailapp.models import Suppression

        client = operator("view_suppression", "add_suppression")
        client.post(
            reverse("admin:mailapp_suppression_add"),
            {**self.FIELDS, "address": "Reader@Bücher.example"},
        )

        assert Suppression.objects.is_suppressed("reader@xn--bcher-kva.example")

    def test_the_form_for_a_new_one_has_no_empty_heading(self, operator):
        client = operator("view_suppression", "add_suppression")
        html = client.get(reverse("admin:mailapp_suppression_add")).content.decode()

        assert "<h2" not in html.partition('id="content"')[2].partition("<form")[0]

    def test_the_list_says_which_are_over(self, admin_client, mailroom):
        from mailapp.models import Suppression

        before = admin_client.get(listing("suppression")).content.decode()
        Suppression.objects.update(expires_at=timezone.now())
        after = admin_client.get(listing("suppression")).content.decode()

        assert "<small>expired</small>" not in before
        assert "<small>expired</small>" in after

    @pytest.mark.parametrize(
        ("queue", "recipient", "names_it"),
        [
            ("outgoing", "Gone@client.test", True),
            ("outgoing", "other@client.test", False),
            ("incoming", "gone@client.test", False),
        ],
    )
    def test_mail_that_is_not_sent_leads_to_the_suppression(
        self, admin_client, mailroom, delivery, queue, recipient, names_it
    ):
        row = delivery(recipient, queue=queue)

        html = text(admin_client.get(page(row)))

        assert (page(mailroom.suppression) in html) is names_it

    def test_an_operator_lets_an_address_be_written_to_again(self, operator, mailroom):
        from mailapp.models import Suppression

        path = reverse("admin:mailapp_suppression_delete", args=[mailroom.suppression.pk])
        operator("view_suppression", "delete_suppression").post(path, {"post": "yes"})

        assert not Suppression.objects.exists()

    @pytest.mark.parametrize("verb", ["add", "delete"])
    def test_who_may_only_look_changes_nothing(self, operator, mailroom, verb):
        from mailapp.models import Suppression

        arguments = [mailroom.suppression.pk] if verb == "delete" else []
        path = reverse(f"admin:mailapp_suppression_{verb}", args=arguments)
        response = operator("view_suppression").post(path, {**self.FIELDS, "post": "yes"})

        assert response.status_code == 403
        assert Suppression.objects.get() == mailroom.suppression

    def test_an_address_is_found_in_any_case(self, admin_client, mailroom):
        found = admin_client.get(listing("suppression", q=" Gone@client.test"))
        missed = admin_client.get(listing("suppression", q="other@client.test"))

        assert found.context["cl"].result_count == 1
        assert missed.context["cl"].result_count == 0

    def test_a_page_says_why_and_by_which_delivery(self, admin_client, mailroom):
        html = text(admin_client.get(page(mailroom.suppression)))

        assert "550 5.1.1 User unknown" in html
        assert page(mailroom.suppression.delivery) in html
