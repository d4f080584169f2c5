"""Rows for the operator's pages: something of everything, and one mail that means harm."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from mailapp import registry
from mailapp.models import (
    INCOMING,
    OUTGOING,
    Conversation,
    Delivery,
    Handler,
    Message,
    NewMail,
    Outcome,
    Process,
    Queue,
    Status,
    Suppression,
    Timer,
    Transition,
)
from tests import hours

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
HOSTILE_SENDER = f'"<{SCRIPT}>"@example.com'

HOSTILE = f"""\
From: "{IMAGE}" <{HOSTILE_SENDER}>\r
To: you@example.com\r
Subject: {SCRIPT} \u202egnihtemos {IMAGE} &lt;script&gt;\r
Message-ID: <hostile@client.test>\r
X-{SCRIPT}: {SCRIPT}\r
X-Template: {{{{ request.user }}}} {{% debug %}} ${{alert(1)}}\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=b\r
\r
--b\r
Content-Type: text/plain; charset=utf-8\r
\r
</pre>{SCRIPT}{IMAGE}\u202eesrever\r
--b\r
Content-Type: text/html; charset=utf-8\r
\r
<style>body {{ background: url(https://client.test/style) }}</style>{SCRIPT}\r
<base href="https://client.test/"><meta http-equiv="refresh" content="0;url=https://client.test/">\r
<h1 onclick="alert(1)" style="background: url(https://client.test/h1)">A dear friend</h1>\r
<p>Please <a href="javascript:alert(1)">look</a> and <a href="https://client.test/">pay</a>.</p>\r
<img src="https://client.test/pixel.png" alt="a pixel">{IMAGE}\r
<iframe src="https://client.test/frame"></iframe><form action="https://client.test/"><input></form>\r
<svg onload="alert(1)"><script>alert(1)</script></svg><math><mtext></form>{IMAGE}\r
--b\r
Content-Type: text/html\r
Content-Disposition: attachment; filename*=utf-8''..%2Finvoice%E2%80%AEfdp.exe\r
\r
{SCRIPT}\r
--b\r
Content-Type: {IMAGE}/x; name="{SCRIPT}.html"\r
Content-Disposition: attachment; filename="{SCRIPT}.html"\r
\r
x\r
--b--\r
""".encode()

PLAIN = """\
From: A Reader <reader@client.test>\r
To: you@example.com\r
Subject: Your opening hours on {day}\r
Message-ID: <{day}@client.test>\r
Date: Mon, 02 Mar 2026 09:30:00 +0000\r
Content-Type: text/plain; charset=utf-8\r
\r
Hello,\r
\r
are you open on {day}?\r
\r
-- \r
A reader\r
"""

TRACEBACK = """\
Traceback (most recent call last):
  File "shop/handlers/hours.py", line 12, in START
    message.respond("hours.msg", day=DAYS[day])
KeyError: 'Someday'
"""


@dataclass
class Mailroom:
    """What was stored, by name."""

    done: Delivery
    failed: Delivery
    deferred: Delivery
    held: Delivery
    queued: Delivery
    hostile: Message
    conversation: Conversation
    timer: Timer
    suppression: Suppression
    handler: Handler
    process: Process

    @property
    def rows(self) -> dict[str, Any]:
        """A row for each page."""
        return {
            "message": self.done.message,
            "hostile": self.hostile,
            "done": self.done,
            "failed": self.failed,
            "deferred": self.deferred,
            "held": self.held,
            "conversation": self.conversation,
            "transition": self.conversation.transitions.first(),
            "timer": self.timer,
            "suppression": self.suppression,
            "handler": self.handler,
            "process": self.process,
            "queue": Queue.objects.get(name=INCOMING),
        }


@contextlib.contextmanager
def furnished() -> Iterator[Mailroom]:
    """Store something of everything, while `tests.hours` is the one handler module."""
    with registry.instead(hours):
        yield furnish()


def furnish() -> Mailroom:
    """Store a mail in each status, with its attempts, a conversation and two processes."""
    registry.sync()
    worker = Process.objects.start(Process.Kind.WORKER, INCOMING)
    silent = Process.objects.start(Process.Kind.RELAY, OUTGOING)
    Process.objects.filter(pk=silent.pk).update(heartbeat_at=timezone.now() - timedelta(hours=3))
    handler = Handler.objects.get(module=hours.__name__)
    store("Sunday", "Monday", "Someday", "Holiday")
    done, failed, deferred, held = Delivery.objects.claim(INCOMING, worker, 10)
    worker.beat("incoming: 4 claimed")
    Delivery.objects.settle(
        {
            done: ended(Status.DONE, handler=handler.pk),
            failed: ended(Status.FAILED, reply="550 5.1.1 No such day"),
            deferred: ended(
                Status.DEFERRED, reply="KeyError: 'Someday'", error=TRACEBACK, delay=600
            ),
            held: ended(Status.HELD, reply="No enabled handler takes this recipient."),
        }
    )
    answer(done)
    conversation = converse(handler, done)
    [queued] = store("Tuesday")
    return Mailroom(
        done=refreshed(done),
        failed=refreshed(failed),
        deferred=refreshed(deferred),
        held=refreshed(held),
        queued=queued.deliveries.get(),
        hostile=store_hostile(handler),
        conversation=conversation,
        timer=hold_timer(conversation),
        suppression=suppress(refreshed(done)),
        handler=handler,
        process=worker,
    )


def refreshed(delivery: Delivery) -> Delivery:
    return Delivery.objects.select_related("message").get(pk=delivery.pk)


def ended(status: Status, **fields: Any) -> Outcome:
    begin = timezone.now()
    return Outcome(
        status=status, started_at=begin, ended_at=begin + timedelta(milliseconds=7), **fields
    )


def store(*days: str) -> list[Message]:
    """Store a plain mail for each day, as the receiver would, all from one person each."""
    keys = Message.objects.store(
        [
            NewMail(
                raw=PLAIN.format(day=day).encode(),
                sender=f"reader-{day.lower()}@client.test",
                recipients=["hours@example.com"],
                protocol="ESMTPS",
                peer="192.0.2.7",
                helo="mail.client.test",
                tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
            )
            for day in days
        ]
    )
    return list(Message.objects.filter(pk__in=keys).order_by("pk"))


def answer(delivery: Delivery) -> None:
    """Store the mail that the handler of `delivery` sent."""
    Message.objects.store(
        [
            NewMail(
                raw=b"From: hours@example.com\r\nSubject: Re: hours\r\n\r\nWe are.\r\n",
                sender="hours@example.com",
                recipients=[delivery.message.sender],
                queue=OUTGOING,
                cause=delivery.pk,
            )
        ]
    )


def converse(handler: Handler, delivery: Delivery) -> Conversation:
    """Store a conversation that moved twice."""
    conversation = Conversation.objects.create(
        handler=handler,
        person=delivery.person,
        state="CONFIRMING",
        data={"day": "Sunday", "asked": [1, 2], "name": IMAGE},
    )
    for begin, end in [("START", "ASKED"), ("ASKED", "CONFIRMING")]:
        Transition.objects.create(
            conversation=conversation,
            delivery=delivery,
            from_state=begin,
            to_state=end,
            duration=0.0042,
        )
    return conversation


def suppress(delivery: Delivery) -> Suppression:
    """Store an address that mail came back from."""
    return Suppression.objects.create(
        address="gone@client.test",
        reason=f"550 5.1.1 User unknown {IMAGE}",
        delivery=delivery,
        expires_at=timezone.now() + timedelta(days=90),
    )


def hold_timer(conversation: Conversation) -> Timer:
    """Store a timer that waits, and one that failed at every try; return that."""
    at = {"conversation": conversation, "state": conversation.state}
    Timer.objects.create(**at, function="remind", due_at=timezone.now() + timedelta(days=3))
    return Timer.objects.create(
        **at, function="expire", tries=8, reply=f"KeyError: {IMAGE}", error=f"</pre>{SCRIPT}"
    )


def store_hostile(handler: Handler) -> Message:
    """Store a mail whose every part wants to run as a script, and let it touch everything."""
    [key] = Message.objects.store(
        [
            NewMail(
                raw=HOSTILE,
                sender=HOSTILE_SENDER,
                recipients=[HOSTILE_SENDER],
                protocol="SMTP",
                peer=SCRIPT,
                helo=IMAGE,
                tls=SCRIPT,
            )
        ]
    )
    message = Message.objects.get(pk=key)
    delivery = message.deliveries.get()
    message.deliveries.update(
        status=Status.FAILED, due_at=None, reply=f"550 {SCRIPT} \u202e", person=HOSTILE_SENDER
    )
    delivery.attempt_set.create(
        number=1,
        started_at=timezone.now(),
        ended_at=timezone.now(),
        outcome=Status.FAILED,
        reply=IMAGE,
        error=f"</pre>{SCRIPT}",
    )
    Conversation.objects.create(
        handler=handler,
        person=HOSTILE_SENDER,
        key=SCRIPT,
        data={SCRIPT: [IMAGE, "</pre>", "\u202e"]},
    )
    return message
