"""What `deq` works, on which handlers, and what it says of a wrong line."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from mailapp import registry
from mailapp.maildir import Maildir, envelope_fields
from mailapp.management.commands.deq import job_for, work_off
from mailapp.models import Delivery, Handler, Queue
from mailapp.routing import from_queue, route, stateless

RAW = b"Subject: Hello\n\nHello.\n"

pytestmark = pytest.mark.django_db


@route("news@(host)")
def START(message, host):
    message.note = f"{message.note}, taken by news".removeprefix(", ")


@stateless
@route("(anything)@(host)", anything=".+")
def LOG(message, anything, host):
    message.note = "logged"


@from_queue("index")
@stateless
@route("news@(host)")
def INDEX(message, host):
    message.note = "indexed"


@pytest.fixture(autouse=True)
def handlers(handle) -> None:
    handle(news=[START], log=[LOG], index=[INDEX])


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    maildir = Maildir(tmp_path / "posts", create=True)
    maildir.add(envelope_fields("reader@client.test", ["news@localhost"]) + RAW)
    return maildir


def deq(target: str, *modules: str, to: tuple[str, ...] = ()) -> str:
    """Do as the command does, without its limits of time and memory for the process."""
    with registry.limited_to(modules):
        return work_off(job_for(target, modules, to))


def test_mail_of_a_maildir_is_worked_by_all_handlers(maildir):
    said = deq(str(maildir.path))

    assert said == "1 taken, 1 worked in incoming."
    assert Delivery.objects.get().reply == "logged, taken by news"


def test_handlers_that_are_named_are_the_only_ones(maildir):
    maildir.add(envelope_fields("reader@client.test", ["other@localhost"]) + RAW)

    said = deq(str(maildir.path), "news")

    delivery = Delivery.objects.get()
    aside = maildir.path / ".errors"
    assert said == f"1 taken, 1 put aside in {aside}, 1 worked in {delivery.queue_id}."
    assert (delivery.status, delivery.reply) == ("done", "taken by news")
    assert delivery.queue_id.startswith("deq-")
    assert not Queue.objects.handled().filter(name=delivery.queue_id).exists()


def test_queue_is_worked_by_name(delivery):
    delivery("news@localhost", queue="index")

    said = deq("index")

    assert said == "1 worked in index."
    assert Delivery.objects.get().reply == "indexed"


def test_mail_in_hand_of_a_worker_that_was_killed_here_is_free_at_once(delivery, process):
    delivery("news@localhost", queue="index")
    killed = process(queue="index")
    killed.pid = 2**22 + 1  # more than the system gives
    killed.save()
    Delivery.objects.claim("index", killed, 10)

    assert deq("index") == "1 worked in index."


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "There is no queue nowhere, but there are copies, incoming, index"),
        (["posts"], "For the folder, write ./posts."),
        (["./posts/new"], "./posts/new is no Maildir: it has no folder new."),
        (["./posts", "--to", "you"], "--to: This is not an address"),
        (["./posts", "--handlers", "news,nothing"], "There is no handler nothing, but there are"),
        (["./posts", "--handlers", ""], "--handlers names no handler."),
        (["./posts", "--detach"], "--detach goes with --watch."),
        ([""], "Name a queue, or the path of a Maildir."),
        (["./posts", "--handlers", "off"], "The handler off is switched off."),
        (["index", "--to", "you@localhost"], "--to is for a Maildir"),
        (["outgoing"], "outgoing is sent by the relay, so no handler works it."),
        (["undeliverable"], "undeliverable is held for an operator, so no handler works it."),
        (["incoming", "--handlers", "news"], "incoming is for all handlers"),
    ],
)
def test_line_that_is_wrong_is_one_line(maildir, monkeypatch, handle, arguments, said):
    monkeypatch.chdir(maildir.path.parent)
    Queue.objects.create(name="copies")
    handle(news=[START], off=[LOG], index=[INDEX])
    Handler.objects.filter(module="off").update(enabled=False)

    with pytest.raises(CommandError) as error:
        call_command("deq", *arguments)

    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(list((maildir.path / "new").iterdir())) == 1
