"""Lamson's words for a test of a conversation, over ours.

    def test_somebody_joins_the_list():
        client = RouterConversation("somedude@localhost", "Testing")
        client.begin()

        client.say("news-subscribe@localhost", "", expect="Please confirm")

        assert_in_state("news.handlers", "news@localhost", "somedude@localhost", "CONFIRMING")

All of them use the way that mail takes at that moment: within the process, or over sockets
where an `OverSmtp` is in use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from types import ModuleType

from mailapp import registry
from mailapp.dispatch import Conversations
from mailapp.models import Conversation, Delivery, Message
from mailapp.request import MailRequest

from .letter import Letter
from .person import Person
from .post import Post, post_in_use


class RouterConversation:
    """What one person writes about one subject, and what comes of it."""

    def __init__(self, sender: str, subject: str) -> None:
        self.sender = sender
        self.subject = subject

    def begin(self) -> None:
        """Begin anew: everybody is in START, and the queue is empty."""
        Conversation.objects.all().delete()
        clear_queue()

    def say(self, to: str, body: str, expect: str | re.Pattern[str] | None = None) -> Letter | None:
        """Write to somebody, and return the mail that this brings in which `expect` is found.

        Raise AssertionError when there is none; Refused and HandlerFailed as `Person.say`.
        Without `expect` return None.
        """
        before = queue().count()
        self.deliver(to, self.sender, self.subject, body)
        if expect is None:
            return None
        came = list(queue())[before:]
        if found := _first(came, expect):
            return found
        report = [f"  came: {letter}, to {letter.reader.address}" for letter in came]
        missing = f"A mail to {to} was expected to bring {re.compile(expect).pattern!r}"
        raise AssertionError("\n".join([missing, *(report or ["  nothing came"])]))

    def deliver(self, to: str, sender: str, subject: str, body: str) -> None:
        """Write as anybody; raise Refused and HandlerFailed as `Person.say`."""
        Person(sender).say(to, body, subject=subject)


def assert_in_state(module: ModuleType | str, to: str, sender: str, state: str) -> None:
    """Raise AssertionError unless `sender` is in this state with a handler.

    Which of their conversations it is about is what the handler's key says of a mail to `to`.
    """
    name = module if isinstance(module, str) else module.__name__
    router = registry.current_router(max_age=0)
    handler = next((each for each in router.handlers if each.name == name), None)
    if handler is None:
        raise AssertionError(f"{name} is no handler that is on")
    mail = Delivery(message=Message(sender=sender), recipient=to)
    found = Conversations().find(handler, MailRequest(mail, raw=b"")).state
    if found != state:
        raise AssertionError(f"{sender} is in {found} with {name}, not in {state}")


def delivered(pattern: str | re.Pattern[str]) -> Letter | None:
    """The first mail in the queue whose header or text has the regular expression, or None."""
    return _first(queue(), pattern)


def clear_queue() -> None:
    """Forget what the program sent so far."""
    queue().clear()


def queue() -> Queue:
    """What the program sent, to whomever, and nobody took off yet."""
    return Queue(post_in_use())


class Queue:
    """Mail that was sent, the oldest first."""

    def __init__(self, post: Post) -> None:
        self._post = post

    def __iter__(self) -> Iterator[Letter]:
        for sent in self._post.sent():
            yield Letter(sent.sender, sent.raw, Person(sent.recipient, self._post))

    def count(self) -> int:
        """How many there are."""
        return len(self._post.sent())

    def pop(self) -> Letter | None:
        """Take the oldest off; None when there is none."""
        oldest = next(iter(self), None)
        self._post.forget(1)
        return oldest

    def clear(self) -> None:
        """Take all off."""
        self._post.forget(self.count())


def _first(letters: Iterable[Letter], pattern: str | re.Pattern[str]) -> Letter | None:
    wanted = re.compile(pattern)
    return next((letter for letter in letters if wanted.search(_text(letter))), None)


def _text(letter: Letter) -> str:
    head = "\n".join(f"{name}: {value}" for name, value in letter.headers)
    return f"{head}\n\n{letter.body() or letter.html()}"
