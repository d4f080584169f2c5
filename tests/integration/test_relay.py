"""The relay against real servers, of which most misbehave: what becomes of the deliveries.

Where a smart host is tried that goes wrong:

- here: it does not listen, breaks off, falls silent or babbles, refuses for now or for good,
  each at each stage; refuses one of several recipients; takes fewer at once;
- test_relay_upstreams: it answers too slowly or without an end, breaks off or reads no more within
  a mail; has a false certificate or no TLS; refuses the login; speaks LMTP, with a reply for each
  recipient; is one of several;
- test_relay_backend: it is another email backend, or an HTTP service behind one;
- test_relay_session, test_relay_sinks: how a session with it goes, and what it takes for a mail;
- acceptance/test_postfix_relay: it is a Postfix; acceptance/test_relay_kills: the relay is killed.
"""

from __future__ import annotations

import logging
import socket
import uuid
from collections import Counter
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from mailapp import dkim, outbox
from mailapp.conf import mail_settings
from mailapp.lifecycle import Life
from mailapp.models import OUTGOING, Attempt, Delivery, Message, Process, Status
from mailapp.relay.work import IN_HAND, Relay
from mailapp.wakeup import listen, notify
from tests.integration.conftest import RAW
from tests.integration.relaying import reports, settled, statuses, tried
from tests.integration.scripted_server import DROP, HOLD, SILENCE
from tests.signatures import verdicts
from tests.waiting import DEADLINE, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

MANY = [f"r{number}@client.test" for number in range(6)]


# What goes well


def test_mail_is_sent_and_done_with_the_reply_of_the_smart_host(serve, relay, post):
    server = serve(dot="250 2.0.0 Queued as 4F1")
    sent = post("reader@client.test")

    relay(server.address)

    delivery = settled(sent)
    assert (delivery.status, delivery.reply) == (Status.DONE, "250 2.0.0 Queued as 4F1")
    assert server.messages == [RAW]
    assert "RCPT TO:<reader@client.test>" in server.commands
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.reply) == (Status.DONE, delivery.reply)
    assert attempt.started_at <= attempt.ended_at


def test_mail_that_comes_later_is_sent_when_the_relay_is_woken(serve, relay, post):
    server = serve()
    relay(server.address, POLL_SECONDS=10 * DEADLINE)

    sent = post("reader@client.test")
    notify(OUTGOING)

    assert settled(sent).status == Status.DONE


def test_recipients_share_one_transaction(serve, relay, post):
    server = serve()
    post(*MANY)

    relay(server.address)

    assert set(tried().values()) == {Status.DONE}
    assert server.verbs[:9] == ["EHLO", "MAIL", *["RCPT"] * 6, "DATA"]
    assert len(server.messages) == 1


def test_connection_is_kept_from_mail_to_mail(serve, relay, post):
    server = serve()
    for recipient in MANY:
        post(recipient)

    relay(server.address)

    assert set(tried().values()) == {Status.DONE}
    assert Counter(server.verbs)["EHLO"] == 1


def test_idle_connection_is_closed_with_a_word_and_opened_again(serve, relay, post):
    server = serve()
    relay(server.address, RELAY_IDLE_SECONDS=0.02)

    for recipient in ("a@client.test", "b@client.test"):
        server.commands.clear()
        assert settled(post(recipient)).status == Status.DONE
        wait_until(lambda: "QUIT" in server.verbs)

        assert server.verbs == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


def test_large_mail_is_sent_from_the_storage(serve, relay, post, settings, tmp_path):
    settings.STORAGES = {
        **settings.STORAGES,
        "mail": {
            "BACKEND": "mailapp.storage.DurableFileSystemStorage",
            "OPTIONS": {"location": tmp_path},
        },
    }
    settings.MAIL = {**settings.MAIL, "INLINE_SIZE": 1000}
    server, raw = serve(), RAW + b"0123456789abcde\r\n" * 30
    large = post("reader@client.test", raw=raw * 2)

    relay(server.address)

    assert settled(large).status == Status.DONE
    assert server.messages == [raw * 2]
    assert large.raw_message.file


def test_mails_that_come_together_do_not_wait_for_each_other(serve, relay, post):
    server = serve(dot=["250 2.0.0 Ok", HOLD, "250 2.0.0 Ok"])
    relay(server.address, RELAY_CONNECTIONS=2, RELAY_IDLE_SECONDS=10 * DEADLINE)
    settled(post("first@client.test"))

    with transaction.atomic():
        post("slow@client.test")
        post("reader@client.test")

    wait_until(lambda: Counter(statuses().values())[Status.DONE] == 2)
    assert Counter(statuses().values()) == {Status.DONE: 2, Status.CLAIMED: 1}
    server.go_on.set()


def test_two_relays_with_several_connections_send_nothing_twice(serve, relay, post):
    server = serve()
    for number in range(60):
        post(f"r{number}@client.test", raw=RAW + b"%d\r\n" % number)

    relay(server.address, RELAY_CONNECTIONS=3)
    relay(server.address, RELAY_CONNECTIONS=3)

    assert set(tried().values()) == {Status.DONE}
    assert len(server.messages) == len(set(server.messages)) == 60


# Refusals


def test_refused_recipient_fails_alone(serve, relay, post):
    server = serve(RCPT=["250 Ok", "550 5.1.1 Unknown", "450 4.2.0 Later", "250 Ok"])
    post("a@client.test", "b@client.test", "c@client.test", "d@client.test")

    relay(server.address)

    wait_until(reports)
    assert {address: status for address, status in tried().items() if "client" in address} == {
        "a@client.test": Status.DONE,
        "b@client.test": Status.FAILED,
        "c@client.test": Status.DEFERRED,
        "d@client.test": Status.DONE,
    }
    assert len(server.messages) >= 1


def test_sender_gets_one_report_that_names_all_who_failed(serve, relay, post):
    server = serve(RCPT=["550 5.1.1 Unknown", "550 5.2.1 Off", "250 Ok"])
    failed = post("a@client.test", "b@client.test", "c@client.test")

    relay(server.address)

    [report] = wait_until(reports)
    assert report.message_id == "<1@example.com>"
    assert [(each.recipient, each.reply) for each in report.reports] == [
        ("a@client.test", "550 5.1.1 Unknown"),
        ("b@client.test", "550 5.2.1 Off"),
    ]
    [told] = Message.objects.filter(sender="")
    assert [row.recipient for row in told.deliveries.all()] == [failed.sender]


def test_mail_from_the_null_sender_fails_without_a_report(serve, relay, post):
    server = serve(RCPT="550 5.1.1 Unknown")
    failed = post("reader@client.test", sender="")

    relay(server.address)

    assert settled(failed).status == Status.FAILED
    assert Message.objects.count() == 1


STAGES = ["MAIL", "RCPT", "DATA", "dot"]


@pytest.mark.parametrize("stage", STAGES)
def test_permanent_refusal_at_any_stage_fails_the_mail(serve, relay, post, stage):
    server = serve(
        **{stage: ["554 5.7.1 No", "250 Ok"]} if stage != "DATA" else {stage: "554 5.7.1 No"}
    )
    failed = post("reader@client.test", sender="")

    relay(server.address)

    delivery = settled(failed)
    assert (delivery.status, delivery.reply) == (Status.FAILED, "554 5.7.1 No")


@pytest.mark.parametrize("stage", STAGES)
def test_temporary_refusal_at_any_stage_defers_the_mail(serve, relay, post, stage):
    server = serve(**{stage: "451 4.7.1 Later"})
    deferred = post("reader@client.test")

    relay(server.address, RELAY_RETRY_SECONDS=[1000])

    delivery = settled(deferred)
    assert (delivery.status, delivery.reply) == (Status.DEFERRED, "451 4.7.1 Later")
    ended_at = Attempt.objects.get().ended_at
    assert timedelta(seconds=1000) <= delivery.due_at - ended_at < timedelta(seconds=1200)


def test_deferred_mail_is_tried_again_and_done(serve, relay, post):
    server = serve(RCPT=["450 Later", "450 Later", "250 Ok"])
    sent = post("reader@client.test")

    relay(server.address, RELAY_RETRY_SECONDS=[0.01])

    wait_until(lambda: sent.deliveries.filter(status=Status.DONE).exists())
    assert [attempt.outcome for attempt in Attempt.objects.all()] == [
        Status.DEFERRED,
        Status.DEFERRED,
        Status.DONE,
    ]


def test_mail_that_is_too_old_fails_with_the_last_reply(serve, relay, post):
    server = serve(RCPT="450 4.2.0 Greylisted")
    old = post("reader@client.test")
    old.deliveries.update(created_at=timezone.now() - timedelta(days=6))

    relay(server.address)

    [report] = wait_until(reports)
    delivery = old.deliveries.get()
    assert (delivery.status, delivery.reply) == (Status.FAILED, "450 4.2.0 Greylisted")
    assert report.reports[0].status == "4.2.0"
    assert not report.temporary


def turn_the_clock(delivery: Delivery, by: timedelta) -> None:
    """Let time pass for a delivery: all that is written of it is so much longer ago."""
    Delivery.objects.filter(pk=delivery.pk).update(
        created_at=F("created_at") - by, due_at=F("due_at") - by
    )
    delivery.attempt_set.update(started_at=F("started_at") - by, ended_at=F("ended_at") - by)
    notify(OUTGOING)


def test_mail_is_tried_at_growing_intervals_for_five_days_and_then_its_sender_is_told(
    serve, relay, post
):
    server = serve(RCPT="450 4.2.0 Greylisted")
    delivery = post("reader@client.test").deliveries.get()
    relay(server.address)

    for number, minutes in enumerate([1, 2, 5, 10, 20, 40, 60, 60], start=1):
        wait = wait_after(delivery, number)
        assert minutes <= wait / timedelta(minutes=1) < minutes * 1.1 + 0.5
        turn_the_clock(delivery, wait)
    wait_after(delivery, 9)
    age = timezone.now() - delivery.created_at
    turn_the_clock(delivery, timedelta(days=5) - timedelta(minutes=30) - age)
    wait_after(delivery, 10)
    assert delivery.due_at - delivery.created_at == pytest.approx(
        timedelta(days=5), abs=timedelta(seconds=30)
    )
    turn_the_clock(delivery, timedelta(minutes=31))

    [report] = wait_until(reports)
    delivery.refresh_from_db()
    assert (delivery.status, delivery.reply) == (Status.FAILED, "450 4.2.0 Greylisted")
    assert [each.recipient for each in report.reports] == ["reader@client.test"]


def wait_after(delivery: Delivery, number: int) -> timedelta:
    """Read a delivery after so many tries; return how long the next is away."""
    wait_until(lambda: delivery.attempt_set.filter(number=number).exists())
    delivery.refresh_from_db()
    assert delivery.status == Status.DEFERRED
    return delivery.due_at - delivery.attempt_set.get(number=number).ended_at


def test_as_many_recipients_are_sent_at_once_as_the_smart_host_takes(serve, relay, post):
    enough = ["250 Ok", "250 Ok", *["452 4.5.3 Too many recipients"] * 4]
    server = serve(RCPT=[*enough, "250 Ok"])
    post(*MANY)

    relay(server.address)

    assert set(tried().values()) == {Status.DONE}
    assert len(server.messages) == 3
    assert set(Attempt.objects.values_list("number", flat=True)) == {1}


# Trouble with the smart host


@pytest.mark.parametrize("stage", ["banner", "EHLO", *STAGES])
@pytest.mark.parametrize("reply", [DROP, SILENCE, "hello there"])
def test_smart_host_that_fails_us_at_any_stage_defers_the_mail(serve, relay, post, stage, reply):
    server = serve(**{stage: reply, "HELO": reply})
    deferred = post("reader@client.test")

    timeout = 0.5 if reply is SILENCE else DEADLINE
    relay(server.address, RELAY_TIMEOUT=timeout, RELAY_REST_SECONDS=[DEADLINE])

    delivery = settled(deferred)
    assert delivery.status == Status.DEFERRED
    assert delivery.reply[:9] == ("451 4.4.2" if stage in STAGES else "451 4.4.1")
    assert (
        "smart host" in Attempt.objects.get().error or server.address in Attempt.objects.get().error
    )


@pytest.mark.parametrize("stage", ["banner", "EHLO"])
@pytest.mark.parametrize("reply", ["421 4.3.2 Busy", "554 5.7.1 Not you"])
def test_smart_host_that_does_not_greet_us_defers_the_mail(serve, relay, post, stage, reply):
    server = serve(**{stage: reply, "HELO": reply})
    deferred = post("reader@client.test")

    relay(server.address, RELAY_REST_SECONDS=[DEADLINE])

    delivery = settled(deferred)
    assert (delivery.status, delivery.reply) == (Status.DEFERRED, "451 4.4.1 Relay not reachable")
    assert reply in Attempt.objects.get().error


@pytest.mark.parametrize("farewell", [DROP, "421 4.4.2 Idle for too long"])
def test_kept_connection_that_was_closed_costs_no_try(serve, relay, post, farewell):
    server = serve(MAIL=["250 Ok", farewell, "250 Ok"])
    post("a@client.test")
    post("b@client.test")

    relay(server.address, RELAY_REST_SECONDS=[DEADLINE])

    assert set(tried().values()) == {Status.DONE}
    assert Counter(server.verbs)["EHLO"] == 2
    assert set(Attempt.objects.values_list("number", flat=True)) == {1}


def test_dead_smart_host_is_left_alone_and_costs_other_mail_no_try(relay, post, caplog):
    with socket.socket() as reserved:  # bound, so that nobody else listens there
        reserved.bind(("127.0.0.1", 0))
        for recipient in MANY:
            post(recipient)

        life = relay("127.0.0.1:{1}".format(*reserved.getsockname()), RELAY_REST_SECONDS=[DEADLINE])
        wait_until(lambda: Attempt.objects.exists())
        wait_until(lambda: not Delivery.objects.claimed().exists())
        post("later@client.test")
        notify(OUTGOING)
        life.stop()

    assert Counter(statuses().values()) == {Status.DEFERRED: 1, Status.QUEUED: 6}
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {0, 1}
    assert "refused" in life.activity
    assert [record.levelno for record in caplog.records if "left alone" in record.message] == [
        logging.WARNING
    ]


def test_mail_flows_again_when_the_smart_host_is_back(serve, relay, post):
    server = serve(banner=["421 Busy", "421 Busy", "220 mx.test"])
    for recipient in MANY:
        post(recipient)

    relay(server.address)

    wait_until(lambda: Delivery.objects.filter(status=Status.DONE).count() == 4)
    assert Delivery.objects.filter(status=Status.DEFERRED).count() == 2


def test_mail_too_old_to_wait_for_a_dead_smart_host_fails(serve, relay, post):
    server = serve(banner="421 Busy")
    for recipient in MANY:
        post(recipient, sender=f"for-{recipient}")
    Delivery.objects.update(created_at=timezone.now() - timedelta(days=6))

    relay(server.address, RELAY_REST_SECONDS=[DEADLINE])

    wait_until(lambda: Delivery.objects.filter(status=Status.FAILED).count() == 6)
    assert len(wait_until(reports)) == 6


def test_operator_reads_why_a_sender_is_not_told_of_a_second_failure(serve, relay, post):
    server = serve(RCPT="550 5.1.1 Unknown")
    for recipient in ("a@client.test", "b@client.test"):
        post(recipient)

    relay(server.address)

    failed = Delivery.objects.filter(status=Status.FAILED).exclude(message__sender="")
    wait_until(lambda: failed.count() == 2)  # and the report fails, too
    assert sorted(failed.values_list("reply", flat=True)) == [
        "550 5.1.1 Unknown",
        "550 5.1.1 Unknown (the sender was told of another mail within the hour)",
    ]
    assert len(reports()) == 1


def test_signed_mail_is_the_same_at_every_try_and_verifies(serve, relay, settings, tmp_path):
    key, file = dkim.new_key(ed25519=True), tmp_path / "key.pem"
    file.write_bytes(key)
    settings.MAIL = {**settings.MAIL, "DKIM": {"example.com": {"new": str(file)}}}
    server = serve(dot=["451 4.3.0 Later", "250 Ok"])
    raw = "From: you@example.com\r\n\r\n.ёж \n\t\r.\r\n".encode()
    outbox.post(raw, sender="you@example.com", recipients=["reader@client.test"])

    relay(server.address, RELAY_RETRY_SECONDS=[0.01])

    wait_until(lambda: set(statuses().values()) == {Status.DONE})
    first, second = server.messages
    received = second.replace(b"\r\n..", b"\r\n.")
    dns = {"new._domainkey.example.com": dkim.record(dkim.read_key(key))}
    assert first == second
    assert verdicts(received, dns) == [True]


# Mail that is late


def late(message: Message, **age: float) -> None:
    message.deliveries.update(created_at=timezone.now() - timedelta(**age))


def test_relay_says_what_it_has_in_hand_while_it_has_something(serve, relay, post):
    server = serve(DATA=[SILENCE, "354 Go ahead"])
    sent = post("reader@client.test")

    life = relay(server.address, RELAY_TIMEOUT=2)

    wait_until(lambda: life.activity == "1 delivery in hand")
    wait_until(lambda: life.activity == "" and sent.deliveries.get().status == Status.DEFERRED)


def test_sender_is_told_once_that_a_mail_is_late(serve, relay, post):
    server = serve(RCPT="450 4.2.0 Greylisted")
    deferred = post("reader@client.test")
    late(deferred, hours=5)

    relay(server.address, RELAY_RETRY_SECONDS=[0.01], DELAY_NOTICE_SECONDS=4 * 3600)

    wait_until(lambda: deferred.deliveries.get().attempt_set.count() >= 3)
    [report] = reports()
    assert report.temporary
    assert report.message_id == "<1@example.com>"
    assert [each.reply for each in report.reports] == ["450 4.2.0 Greylisted"]
    [told] = Message.objects.filter(sender="")
    gives_up = deferred.deliveries.get().created_at + timedelta(days=5)
    assert f"Will-Retry-Until: {format_datetime(gives_up)}".encode() in told.raw


@pytest.mark.parametrize(("seconds", "hours"), [(0, 100), (4 * 3600, 3)])
def test_sender_is_told_nothing_of_a_mail_that_is_not_late(serve, relay, post, seconds, hours):
    server = serve(RCPT="450 4.2.0 Greylisted")
    deferred = post("reader@client.test")
    late(deferred, hours=hours)

    relay(server.address, DELAY_NOTICE_SECONDS=seconds)

    assert settled(deferred).status == Status.DEFERRED
    assert Message.objects.get() == deferred


def test_senders_are_told_of_what_waits_untried_for_a_dead_smart_host(serve, relay, post):
    server = serve(banner="421 Busy")
    for recipient in MANY:
        late(post(recipient, sender=f"for-{recipient}"), hours=5)

    relay(server.address, RELAY_REST_SECONDS=[DEADLINE], DELAY_NOTICE_SECONDS=4 * 3600)

    wait_until(lambda: len(reports()) == 6)
    assert Attempt.objects.count() == 1
    assert all(report.temporary for report in reports())


def test_what_was_sent_before_the_smart_host_broke_off_stays_sent(serve, relay, post):
    server = serve(dot=["250 Ok", DROP])
    post(*MANY)

    relay(server.address, RELAY_RECIPIENTS=4, RELAY_REST_SECONDS=[DEADLINE])

    counted = Counter(tried().values())
    assert counted == {Status.DONE: 4, Status.DEFERRED: 2}


def test_reply_with_octets_that_no_text_can_hold_is_kept_cleaned(serve, relay, post):
    server = serve(dot="250 Queued\0 \x1b[2Jas 4F1")
    sent = post("reader@client.test")

    relay(server.address)

    delivery = settled(sent)
    assert delivery.status == Status.DONE
    assert delivery.reply.isprintable()


# The end, and claims that are lost


def test_mail_that_a_dead_relay_had_claimed_is_sent(serve, relay, post, process):
    server, dead = serve(), process("relay", OUTGOING)
    sent = post("reader@client.test")
    Delivery.objects.claim(OUTGOING, dead, 1)
    dead.stop()

    relay(server.address)

    wait_until(lambda: sent.deliveries.filter(status=Status.DONE).exists())
    assert [attempt.outcome for attempt in Attempt.objects.all()] == [Attempt.LOST, Status.DONE]


def test_relay_sends_no_more_than_it_has_in_hand_while_nothing_can_be_settled(serve, relay, post):
    server = serve(dot=HOLD)
    for number in range(IN_HAND + 10):
        post(f"r{number}@client.test")
    relay(server.address, RELAY_CONNECTIONS=4)
    wait_until(lambda: len(server.messages) == 4)

    with transaction.atomic():
        list(Delivery.objects.claimed().select_for_update())  # nothing can be settled
        server.go_on.set()
        wait_until(lambda: len(server.messages) >= IN_HAND)
        sent = len(server.messages)

    assert sent == IN_HAND
    wait_until(lambda: Delivery.objects.filter(status=Status.DONE).count() == IN_HAND + 10)


def test_notes_of_what_was_sent_are_struck_once_it_is_settled(serve, relay, post):
    server = serve()
    relay(server.address)
    folder = Path(mail_settings().RUN_DIR) / "relay"

    for number in range(3):
        settled(post(f"r{number}@client.test"))

    wait_until(lambda: [page.stat().st_size for page in folder.glob("*.notes")] == [0, 0])


def test_rest_of_a_mail_for_many_goes_on_after_the_smart_host_was_in_trouble(serve, relay, post):
    server = serve(dot=[HOLD, DROP, "250 Ok"])
    post(*MANY)
    relay(server.address, RELAY_RECIPIENTS=4, RELAY_CONNECTIONS=2)
    wait_until(lambda: server.messages)
    troubled = post("reader@client.test")
    assert settled(troubled).status == Status.DEFERRED

    server.go_on.set()

    wait_until(lambda: Counter(statuses().values()) == {Status.DONE: 6, Status.DEFERRED: 1})


def test_stopped_relay_finishes_the_mail_in_hand_and_gives_back_the_rest(serve, relay, post):
    server = serve(dot=HOLD)
    for recipient in MANY:
        post(recipient)
    life = relay(server.address)
    wait_until(lambda: server.messages)

    life.stop()
    wait_until(lambda: Delivery.objects.claimed().count() == 1)
    server.go_on.set()

    wait_until(lambda: not Delivery.objects.claimed().exists())
    assert Counter(statuses().values()) == {Status.DONE: 1, Status.QUEUED: 5}
    assert Counter(Delivery.objects.values_list("attempts", flat=True)) == {1: 1, 0: 5}
    assert len(server.messages) == Attempt.objects.count() == 1


def test_relay_that_cannot_finish_in_time_leaves_its_claim_to_be_released(serve, relay, post):
    server = serve(dot=HOLD)
    sent = post("reader@client.test")
    life = relay(server.address, DRAIN_SECONDS=0.05)
    wait_until(lambda: server.messages)

    life.stop()
    wait_until(lambda: Process.objects.dead().exists())

    assert Delivery.objects.release_dead() == 1
    assert sent.deliveries.get().status == Status.QUEUED
    server.go_on.set()


def test_relay_sends_what_a_dead_relay_had_claimed(serve, relay, post, process):
    server = serve()
    sent = post("reader@client.test")
    dead = process("relay", OUTGOING)
    Delivery.objects.claim(OUTGOING, dead, 1)
    dead.stop()

    relay(server.address, POLL_SECONDS=10 * DEADLINE)

    wait_until(lambda: sent.deliveries.filter(status=Status.DONE).exists())
    assert [attempt.outcome for attempt in Attempt.objects.all()] == ["lost", "done"]
    assert server.messages == [RAW]


def test_relay_frees_what_a_dead_worker_had_claimed(serve, relay, delivery, process):
    left, dead = delivery(), process("worker", "incoming")
    Delivery.objects.claim("incoming", dead, 1)
    dead.stop()

    relay(serve().address)

    wait_until(lambda: Delivery.objects.get(pk=left.pk).status == Status.QUEUED)


def test_sender_is_not_told_of_a_failure_that_is_not_noted(serve, relay, post, process, caplog):
    server = serve(RCPT=["550 5.1.1 No such user", HOLD])
    sent = post("lost@client.test", "kept@client.test")
    relay(server.address)
    wait_until(lambda: server.verbs.count("RCPT") == 2)

    lost = sent.deliveries.filter(recipient="lost@client.test")
    lost.update(claim=uuid.uuid4(), claimed_by=process("relay", OUTGOING))
    server.go_on.set()

    wait_until(lambda: sent.deliveries.filter(status=Status.DONE).exists())
    assert [each for each in caplog.messages if "not noted" in each]
    assert Message.objects.get() == sent


def test_relay_sends_what_it_had_claimed_when_the_database_went_away(
    serve, relay_settings, post, process, together
):
    server = serve()
    sent = post("reader@client.test")
    relay_settings(server.address)
    life = Life(process("relay", OUTGOING))
    Delivery.objects.claim(OUTGOING, life.process, 1)  # and the answer is not heard

    def work() -> None:
        with listen(OUTGOING) as bell:
            life.on_stop(bell.wake)
            Relay(life, bell).work()

    def stop_once_sent() -> None:
        try:
            wait_until(lambda: sent.deliveries.filter(status=Status.DONE).exists())
        finally:
            life.stop()

    together(work, stop_once_sent)

    assert server.messages == [RAW]


def test_claim_that_was_lost_changes_nothing_but_the_others_are_settled(
    serve, relay, post, process, caplog
):
    server = serve(dot=HOLD)
    post("kept@client.test", "lost@client.test")
    relay(server.address)
    wait_until(lambda: server.messages)
    other = uuid.uuid4()
    lost = Delivery.objects.filter(recipient="lost@client.test")

    lost.update(claim=other, claimed_by=process("relay", OUTGOING))
    server.go_on.set()

    wait_until(lambda: [each for each in caplog.messages if "not noted" in each])
    assert lost.get().claim == other
    assert statuses()["kept@client.test"] == Status.DONE
