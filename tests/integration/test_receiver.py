"""The receiver with its database: what a 250 means, and what becomes of everything else."""

from __future__ import annotations

import asyncio
import itertools
import logging
import smtplib
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.files.storage import storages
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from mailapp import registry
from mailapp.conf import mail_settings
from mailapp.models import Delivery, Handler, Message, NewMail, Process, Unheard
from mailapp.receiver.commits import Commits, Hired, NotStored
from mailapp.receiver.destination import handlers_destination
from mailapp.receiver.line import StorersLine, packed
from mailapp.receiver.retries import Retries, held_by_storer
from mailapp.receiver.storer import (
    Failure,
    Result,
    Storer,
    Work,
    serve,
    store_group,
    store_new,
)
from mailapp.testing.smtp import hire_thread
from tests.integration import receiving_handlers
from tests.integration.receiving import (
    HOSTS,
    Client,
    Receiver,
    deliver,
    mail_transaction,
    receiving,
)
from tests.waiting import DEADLINE, wait_until

CONTENT = b"Subject: Hello\r\n\r\n.Hello\r\n..\r\n\xff\r\n"


Receive = Callable[..., AbstractContextManager[Receiver]]


@pytest.fixture
def receive(transactional_db: None, settings: Any) -> Iterator[Receive]:
    """Run a receiver that stores mail in the database, by a storer of one's own if one likes."""
    settings.MAIL = {**settings.MAIL, "HOSTS": HOSTS, "INLINE_SIZE": 5000}

    def run(hire: Callable[[], Hired] = hire_thread) -> AbstractContextManager[Receiver]:
        ours = mail_settings()
        return receiving(handlers_destination(ours, hire), settings=ours)

    with registry.instead(receiving_handlers):
        registry.sync()
        yield run


@pytest.fixture
def receiver(receive: Receive) -> Iterator[Receiver]:
    with receive() as receiver:
        yield receiver


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    with receiver.greeted() as client:
        yield client


def test_a_250_means_that_the_mail_is_in_the_database(client: Client) -> None:
    assert deliver(client, CONTENT) == b"250 2.6.0 Message stored"

    message = Message.objects.get()
    assert message.raw == CONTENT
    assert (message.sender, message.helo, message.peer, message.protocol, message.tls) == (
        "reader@client.test",
        "client.test",
        "127.0.0.1",
        "ESMTP",
        "",
    )
    assert message.deliveries.get().recipient == "you@example.com"


def test_a_large_mail_is_stored_byte_for_byte_in_a_file(client: Client) -> None:
    content = CONTENT + b"".join(b".%d\r\n" % number for number in range(200_000))

    assert deliver(client, content).startswith(b"250")

    message = Message.objects.get()
    assert message.raw_message.content is None
    assert message.raw == content
    assert message.size == len(content)


def test_a_recipient_that_is_named_twice_gets_one_delivery(client: Client) -> None:
    client.ask(b"MAIL FROM:<reader@client.test>")
    for recipient in (b"you@example.com", b"YOU@Example.COM", b"they@example.com"):
        assert client.ask(b"RCPT TO:<%b>" % recipient).startswith(b"250")
    client.ask(b"DATA")
    client.ask(b"Hello.\r\n.")

    recipients = Delivery.objects.order_by("id").values_list("recipient", flat=True)
    assert list(recipients) == ["you@example.com", "they@example.com"]


def test_the_null_sender_is_an_empty_string(client: Client) -> None:
    deliver(client, sender=b"")

    assert Message.objects.get().sender == ""


def test_a_handler_that_is_switched_off_takes_no_more_recipients(client: Client) -> None:
    assert deliver(client).startswith(b"250")

    Handler.objects.update(enabled=False)

    wait_until(lambda: deliver(client).startswith(b"550 5.1.1") or client.ask(b"RSET") == b"")
    assert client.ask(b"RCPT TO:<postmaster@example.net>").startswith(b"250")


def test_a_client_that_half_closes_after_the_dot_hears_that_its_mail_is_stored(
    client: Client,
) -> None:
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<you@example.com>\r\n")
    client.ask(b"DATA")
    client.read_reply()
    client.read_reply()

    client.send(b"Hello.\r\n.\r\n")
    client.half_close()

    assert client.read_replies() == [b"250 2.6.0 Message stored"]
    assert Message.objects.count() == 1


def test_half_a_mail_is_no_mail(receiver: Receiver, client: Client) -> None:
    client.ask(b"MAIL FROM:<>")
    client.ask(b"RCPT TO:<you@example.com>")
    client.ask(b"DATA")

    client.send(b"Hello.\r\n")
    client.half_close()

    assert client.is_closed()
    assert not Message.objects.exists()


def test_smtplib_delivers(receiver: Receiver) -> None:
    with smtplib.SMTP("127.0.0.1", receiver.port, timeout=DEADLINE) as smtp:
        smtp.sendmail("reader@client.test", ["you@example.com"], CONTENT)

    assert Message.objects.get().raw == CONTENT


# Messages that share a commit.


def _store_together(
    store: Callable[[Sequence[NewMail]], Sequence[int | None]],
    mails: Sequence[NewMail],
    patience: float = DEADLINE,
) -> tuple[list[int | BaseException | None], list[int]]:
    """Give all mails to Commits at once.

    Return the key or the exception for each, and the keys that were noted as unheard.
    """
    noted: list[int] = []

    def storer(work: Work) -> list[Result]:
        noted.extend(work.unheard)
        return store_group(store, work.mails)

    async def main() -> list[int | BaseException | None]:
        commits = Commits(lambda: hire_thread(storer))
        await commits.start()
        try:
            waits = [commits.store(mail, patience) for mail in mails]
            return await asyncio.gather(*waits, return_exceptions=True)
        finally:
            await commits.stop(DEADLINE)

    return asyncio.run(main()), noted


def _mails(count: int, **fields: Any) -> list[NewMail]:
    defaults: dict[str, Any] = {"raw": b"x", "sender": "", "recipients": ["you@example.com"]}
    return [NewMail(**(defaults | fields)) for _ in range(count)]


def test_mails_that_wait_at_the_same_time_share_a_commit() -> None:
    groups: list[int] = []

    def store(mails: Sequence[NewMail]) -> list[int | None]:
        groups.append(len(mails))
        return [None for _ in mails]

    assert _store_together(store, _mails(100)) == ([None] * 100, [])
    assert sum(groups) == 100
    assert len(groups) < 50


@pytest.mark.django_db(transaction=True)
def test_a_mail_that_cannot_be_stored_takes_no_other_with_it() -> None:
    registry.sync()
    mails = [*_mails(3), *_mails(1, queue="no such queue"), *_mails(3)]

    results, _ = _store_together(partial(store_new, retries=Retries(days=7)), mails)

    stored = [isinstance(result, int) for result in results]
    assert stored == [True] * 3 + [False] + [True] * 3
    assert Message.objects.count() == 6


def test_a_commit_that_broke_off_is_not_made_a_second_time() -> None:
    groups: list[int] = []

    def store(mails: Sequence[NewMail]) -> list[int | None]:
        groups.append(len(mails))
        raise OperationalError("the server closed the connection unexpectedly")

    results, _ = _store_together(store, _mails(20))

    assert all(isinstance(result, NotStored) for result in results)
    assert sum(groups) == 20


def test_an_error_of_the_database_reaches_the_client_as_a_number(
    receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(mails: Sequence[NewMail]) -> list[int | None]:
        raise OperationalError("secret-table is broken")

    def hire() -> Hired:
        return hire_thread(lambda work: store_group(fail, work.mails))

    with receive(hire) as receiver, receiver.greeted() as client:
        reply = deliver(client)

    assert reply.startswith(b"451 4.3.0")
    assert b"secret" not in reply
    number = reply.rpartition(b"error ")[2].rstrip(b")").decode()
    assert any(number in record.getMessage() for record in caplog.records)


# What becomes of mail when the storer dies, or nobody waits for it.


def test_a_storer_that_dies_is_replaced_and_what_it_stored_is_not_stored_again(
    receive: Receive,
) -> None:
    hired: list[Hired] = []

    def hire() -> Hired:
        hired.append(hire_thread(None if hired else _dying_storer))
        return hired[-1]

    with receive(hire) as receiver, receiver.greeted() as client:
        assert deliver(client).startswith(b"451 4.3.0 Message could not be stored")
        assert Message.objects.count() == 1

        assert deliver(client).startswith(b"250")
        assert deliver(client, CONTENT).startswith(b"250")

    assert len(hired) == 2
    assert Message.objects.count() == 2


def test_what_was_stored_is_in_the_log_though_the_receiver_has_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mailapp.way")
    ours, theirs = socket.socketpair()

    def store(work: Work) -> list[Result]:
        ours.close()
        return [7 for _ in work.mails]

    with theirs:
        ours.sendall(packed(Work(_mails(1)).plain()))
        serve(StorersLine(theirs), store)

    assert "mail 7 accepted" in caplog.text


def _lose_answer_of_commit(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    """Let the first write be committed, and the connection break before that is heard."""
    result = execute(sql, params, many, context)
    if "mailapp_store" in sql:
        connection.execute_wrappers.clear()
        _break_off()
    if sql.startswith("INSERT"):
        connection.execute_wrappers.clear()
        transaction.on_commit(_break_off)
    return result


def _break_off() -> None:
    raise OperationalError("the server closed the connection unexpectedly")


@pytest.mark.django_db(transaction=True)
def test_a_mail_whose_commit_broke_off_but_happened_is_recognised_when_it_comes_again() -> None:
    registry.sync()
    storer = Storer(Retries(days=7))
    mails = _mails(1, protocol="ESMTP")

    with connection.execute_wrapper(_lose_answer_of_commit):
        [broken_off] = storer(Work(mails))
        connection.execute_wrappers.append(_lose_answer_of_commit)  # for the block to remove
    [again] = storer(Work(mails))

    assert isinstance(broken_off, Failure)
    assert again is None
    assert Message.objects.count() == 1


class _HungStorer:
    """A storer that stores nothing until it may go on; then each mail gets the next key."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self.may_go_on = threading.Event()
        self._keys = itertools.count(1)

    def __call__(self, work: Work) -> list[Result]:
        self.works.append(work)
        self.may_go_on.wait(DEADLINE)
        return [next(self._keys) for _ in work.mails]

    def give_up_a_mail(self, commits: Commits) -> asyncio.Task[None]:
        """Have a session wait for a mail until its patience ends."""

        async def give_up() -> None:
            with pytest.raises(TimeoutError):
                await commits.store(_mails(1, raw=b"given up")[0], 0.01)

        return asyncio.create_task(give_up())


def _run_with(storer: _HungStorer, act: Callable[[Commits], Awaitable[None]]) -> None:
    async def main() -> None:
        commits = Commits(lambda: hire_thread(storer))
        await commits.start()
        try:
            await act(commits)
        finally:
            storer.may_go_on.set()
            await commits.stop(DEADLINE)

    asyncio.run(main())


def test_a_mail_that_was_given_up_is_noted_before_it_can_come_again() -> None:
    storer = _HungStorer()

    async def act(commits: Commits) -> None:
        await storer.give_up_a_mail(commits)
        assert commits.seconds_stuck > 0
        again = asyncio.create_task(commits.store(_mails(1, raw=b"again")[0], DEADLINE))
        await asyncio.sleep(0)
        storer.may_go_on.set()
        assert await again == 2

    _run_with(storer, act)

    first, second = storer.works
    assert [mail.raw for mail in first.mails] == [b"given up"]
    assert [mail.raw for mail in second.mails] == [b"again"]
    assert second.unheard == [1]


def test_a_mail_that_was_given_up_before_it_was_handed_over_is_not_stored() -> None:
    storer = _HungStorer()

    async def act(commits: Commits) -> None:
        await storer.give_up_a_mail(commits)
        await storer.give_up_a_mail(commits)

    _run_with(storer, act)

    assert sum(len(work.mails) for work in storer.works) == 1


def test_a_mail_whose_session_has_ended_is_noted_before_it_can_come_again() -> None:
    storer = _HungStorer()

    async def act(commits: Commits) -> None:
        ended = asyncio.create_task(commits.store(_mails(1)[0], DEADLINE))
        while not storer.works:
            await asyncio.sleep(0)
        ended.cancel()
        await asyncio.wait([ended])
        again = asyncio.create_task(commits.store(_mails(1)[0], DEADLINE))
        await asyncio.sleep(0)
        storer.may_go_on.set()
        assert await again == 2

    _run_with(storer, act)

    assert [work.unheard for work in storer.works] == [[], [1]]


def test_the_storer_has_no_more_than_so_much_in_hand() -> None:
    storer = _HungStorer()

    async def act(commits: Commits) -> None:
        large = _mails(50, raw=bytes(1024 * 1024))
        waits = [asyncio.create_task(commits.store(mail, DEADLINE)) for mail in large]
        while not storer.works:
            await asyncio.sleep(0)
        storer.may_go_on.set()
        await asyncio.gather(*waits)

    _run_with(storer, act)

    assert max(len(work.mails) for work in storer.works) <= 8
    assert sum(len(work.mails) for work in storer.works) == 50


def test_a_storer_that_hangs_is_killed_at_the_end() -> None:
    killed = threading.Event()

    def storer(work: Work) -> list[Result]:
        killed.wait(DEADLINE)
        return [None for _ in work.mails]

    async def main() -> None:
        commits = Commits(lambda: hire_thread(storer)._replace(kill=killed.set))
        await commits.start()
        with pytest.raises(TimeoutError):
            await commits.store(_mails(1)[0], 0.01)
        await commits.stop(0.01)

    asyncio.run(main())
    assert killed.is_set()


def test_the_file_of_a_large_mail_that_is_stored_already_is_removed(
    receiver: Receiver,
) -> None:
    before = _large_files()
    large = CONTENT + b"x" * 98 + b"\r\n" * 100_000
    *envelope, content = mail_transaction(large)
    with receiver.greeted() as client:
        for line in envelope:
            client.ask(line)
        client.send(content + b"\r\n")
    wait_until(Unheard.objects.exists)
    stored = _large_files()

    with receiver.greeted() as client:
        assert deliver(client, large).startswith(b"250")

    assert len(stored - before) == 1
    assert _large_files() == stored


def _large_files() -> set[Path]:
    return {path for path in Path(storages["mail"].path("")).rglob("*") if path.is_file()}


def _dying_storer(work: Work) -> list[Result]:
    """Commit, and die before it can say so."""
    Message.objects.store(work.mails)
    connection.close()
    raise ConnectionError


# Mail that was stored though its sender does not know.


def _deliver_and_hang_up(receiver: Receiver) -> None:
    *envelope, content = mail_transaction(CONTENT)
    with receiver.greeted() as client:
        for line in envelope:
            client.ask(line)
        client.send(content + b"\r\n")
    wait_until(Unheard.objects.exists)


def test_a_retry_of_a_mail_whose_250_was_not_heard_is_not_stored_again(
    receiver: Receiver,
) -> None:
    _deliver_and_hang_up(receiver)

    with receiver.greeted() as client:
        assert deliver(client, CONTENT).startswith(b"250")
        assert deliver(client, CONTENT, sender=b"b@client.test").startswith(b"250")
        assert deliver(client, CONTENT, recipient=b"they@example.com").startswith(b"250")
        assert deliver(client, CONTENT + b"x\r\n").startswith(b"250")

    assert Message.objects.count() == 4


def test_a_retry_reaches_the_recipients_that_do_not_have_the_mail(receiver: Receiver) -> None:
    _deliver_and_hang_up(receiver)

    with receiver.greeted() as client:
        client.ask(b"MAIL FROM:<reader@client.test>")
        client.ask(b"RCPT TO:<you@example.com>")
        client.ask(b"RCPT TO:<they@example.com>")
        client.ask(b"DATA")
        assert client.ask(mail_transaction(CONTENT)[-1]).startswith(b"250")

    assert sorted(Delivery.objects.values_list("recipient", flat=True)) == [
        "they@example.com",
        "you@example.com",
    ]


def test_a_mail_whose_250_was_heard_may_be_sent_again(client: Client) -> None:
    for _ in range(2):
        assert deliver(client, CONTENT).startswith(b"250")
    assert client.ask(b"QUIT").startswith(b"221")

    assert Message.objects.count() == 2
    assert not Unheard.objects.exists()


def test_a_retry_is_recognised_by_another_receiver_and_for_seven_days(
    receiver: Receiver,
) -> None:
    _deliver_and_hang_up(receiver)
    [mail] = [NewMail(raw=CONTENT, sender="reader@client.test", recipients=["you@example.com"])]
    other = Retries(days=7)

    other.refresh()
    assert other.without_known(mail) is None

    Unheard.objects.update(created_at=timezone.now() - timedelta(days=8))
    later = Retries(days=7)
    later.refresh()
    assert later.without_known(mail) is mail


@pytest.mark.django_db(transaction=True)
def test_the_last_mails_of_a_receiver_that_was_killed_count_as_unheard() -> None:
    registry.sync()
    killed = _killed_receiver()
    [mail] = _mails(1, protocol="ESMTP")
    Message.objects.store([mail])
    retries = Retries(days=7)

    retries.note_after_crash()

    assert retries.without_known(mail) is None
    killed.refresh_from_db()
    assert killed.stopped_at


@pytest.mark.django_db(transaction=True)
def test_what_a_storer_still_stores_for_a_receiver_that_was_killed_counts_as_unheard() -> None:
    registry.sync()
    killed = _killed_receiver()
    [mail] = _mails(1, protocol="ESMTP")
    retries = Retries(days=7)

    with ThreadPoolExecutor() as pool:
        with held_by_storer(killed.pid):
            noting = pool.submit(_in_thread, retries.note_after_crash)
            assert wait([noting], timeout=0.2).not_done, "waits for the storer"
            Message.objects.store([mail])
        noting.result(DEADLINE)

    assert retries.without_known(mail) is None


@pytest.mark.django_db(transaction=True)
def test_a_storer_that_hangs_keeps_its_successor_waiting_for_so_long(settings: Any) -> None:
    settings.MAIL = {**settings.MAIL, "COMMIT_SECONDS": 0.1}
    killed = _killed_receiver()

    with held_by_storer(killed.pid):
        Retries(days=7).note_after_crash()

    killed.refresh_from_db()
    assert killed.stopped_at


def _killed_receiver() -> Process:
    ended = subprocess.Popen(["true"])
    ended.wait()
    killed = Process.objects.start(Process.Kind.RECEIVER)
    Process.objects.filter(pk=killed.pk).update(pid=ended.pid)
    killed.refresh_from_db()
    return killed


def _in_thread(act: Callable[[], None]) -> None:
    try:
        act()
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_a_mail_that_is_stored_too_late_counts_as_unheard() -> None:
    go_on = threading.Event()

    def store(mails: Sequence[NewMail]) -> list[int | None]:
        go_on.wait(DEADLINE)
        return [7 for _ in mails]

    threading.Timer(0.2, go_on.set).start()
    [result], noted = _store_together(store, _mails(1), patience=0.01)

    assert isinstance(result, TimeoutError)
    assert noted == [7]
