"""Two thousand clients that send an octet now and then, and a good one among them."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator

import pytest

from mailapp.receiver import replies
from tests.integration.receiving import Client, Receiver, Shelf, deliver, our_settings, receiving
from tests.waiting import wait_until

SLOW = 2000
DATA = b"EHLO slow.test\r\nMAIL FROM:<>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n"


class Crowd:
    """Half of them dribble a command that never ends, half a mail."""

    def __init__(self, receiver: Receiver, stack: contextlib.ExitStack) -> None:
        self.last_words: list[bytes] = []
        self._poll = select.poll()
        self._open: dict[int, Client] = {}
        clients = [stack.enter_context(receiver.connect()) for _ in range(SLOW)]
        for number, client in enumerate(clients):
            assert client.read_reply().startswith(b"220")
            if number % 2:
                client.send(DATA)
                assert [client.read_reply()[:1] for _ in range(4)] == [b"2", b"2", b"2", b"3"]
            self._open[client.socket.fileno()] = client
            self._poll.register(client.socket, select.POLLIN)

    def __len__(self) -> int:
        return len(self._open)

    def dribble(self) -> None:
        """Take leave of those who were sent away; all others send an octet."""
        for number, _ in self._poll.poll(0):
            self._poll.unregister(number)
            self.last_words += self._open.pop(number).read_replies()
        for client in self._open.values():
            with contextlib.suppress(ConnectionError):  # its last word will be read next time
                client.send(b"x")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@contextlib.contextmanager
def crowded(shelf: Shelf, **limits: float) -> Iterator[tuple[Receiver, Crowd]]:
    """Run a receiver that has its crowd."""
    settings = our_settings(**limits)
    with (
        receiving(shelf, settings=settings) as receiver,
        contextlib.ExitStack() as stack,
    ):
        yield receiver, Crowd(receiver, stack)


def test_a_good_client_among_slow_ones_gets_every_reply(shelf: Shelf) -> None:
    with crowded(shelf) as (receiver, crowd), receiver.greeted() as good:
        for number in range(1, 21):
            crowd.dribble()
            assert deliver(good).startswith(b"250"), number
            with receiver.greeted() as another:
                assert deliver(another).startswith(b"250"), number

        assert len(shelf.mails) == 40
        assert len(crowd) == SLOW, "they were not slow, but gone"


def test_slow_clients_are_sent_away_by_rule_and_a_good_one_is_not(shelf: Shelf) -> None:
    limits = {"READ_TIMEOUT": 8.0, "DATA_GRACE_SECONDS": 8.0, "MIN_DATA_RATE": 1000.0}
    with crowded(shelf, **limits) as (receiver, crowd):
        served = 0

        def all_are_gone() -> bool:
            nonlocal served
            crowd.dribble()
            with receiver.greeted() as good:
                assert deliver(good).startswith(b"250")
            served += 1
            return not crowd

        wait_until(all_are_gone)

        assert crowd.last_words == [replies.TOO_SLOW] * SLOW
        assert len(shelf.mails) == served > 1
        wait_until(lambda: not receiver.listener.sessions)
