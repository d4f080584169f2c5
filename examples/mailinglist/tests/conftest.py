"""People who write to a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from examples.mailinglist.models import MailingList
    from mailapp.testing.person import Person


@pytest.fixture
def news(db: None) -> MailingList:
    """A list that exists."""
    from examples.mailinglist.models import MailingList

    return MailingList.objects.create(name="news", host="localhost", title="The News")


@pytest.fixture
def reader(person: Callable[[str], Person]) -> Person:
    """Somebody who is on no list."""
    return person("reader@client.test")


@pytest.fixture
def subscriber(person: Callable[[str], Person], news: MailingList) -> Callable[..., Person]:
    """Somebody who came onto the list by mail: `subscriber("you@example.com")`."""

    def subscribe(address: str = "you@example.com") -> Person:
        subscriber = person(address)
        subscriber.say("news-subscribe@localhost")
        subscriber.expect("Please confirm").respond()
        subscriber.expect("Welcome")
        return subscriber

    return subscribe
