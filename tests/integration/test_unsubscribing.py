"""The link by which one click leads off a list (RFC 8058)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.signing import Signer
from django.db import transaction
from django.test import Client

from mailapp import outbox, unsubscribing
from mailapp.errors import LinkForged
from mailapp.models import OUTGOING, Delivery
from mailapp.unsubscribing import Wish

WISH = Wish("news@localhost", "Reader@client.test")
RAW = b"From: news@localhost\r\nSubject: News\r\n\r\nHello\r\n"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


@pytest.fixture(autouse=True)
def page(settings: Any) -> None:
    settings.MAIL = {**settings.MAIL, "UNSUBSCRIBE_URL": "http://testserver/unsubscribe/"}


@pytest.fixture
def left() -> Iterator[list[Wish]]:
    """Who got off which list."""
    wishes: list[Wish] = []

    def take_off(list_address: str, address: str, **kwargs: Any) -> None:
        assert not transaction.get_autocommit()
        wishes.append(Wish(list_address, address))

    unsubscribing.unsubscribed.connect(take_off)
    yield wishes
    unsubscribing.unsubscribed.disconnect(take_off)


def test_link_holds_who_wants_to_get_off_which_list():
    token = unsubscribing.link(WISH).removesuffix("/").rpartition("/")[2]

    assert unsubscribing.wish_of(token) == WISH


@pytest.mark.parametrize("salt", ["mailapp.unsubscribing", "another"])
def test_link_that_is_not_ours_is_known(salt):
    key = "their key" if salt == "mailapp.unsubscribing" else None
    token = Signer(key=key, salt=salt).sign_object(WISH)

    with pytest.raises(LinkForged):
        unsubscribing.wish_of(token)


def test_each_copy_has_a_link_of_its_own(db):
    readers = ["ann@client.test", "bob@client.test"]
    outbox.post(RAW, sender="news@localhost", recipients=readers, list_address="news@localhost")

    for delivery in Delivery.objects.filter(queue=OUTGOING):
        link = unsubscribing.link(Wish("news@localhost", delivery.recipient))
        copy = delivery.as_sent(delivery.message.raw)

        assert copy.startswith(b"List-Unsubscribe: <%b>\r\n" % link.encode())
        assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in copy
        assert copy.endswith(RAW)
        assert delivery.return_path.startswith("bounce+")


def test_post_of_a_mail_program_acts_at_once(db, left):
    strict = Client(enforce_csrf_checks=True)

    answer = strict.post(unsubscribing.link(WISH), ONE_CLICK)

    assert answer.status_code == 200
    assert left == [WISH]
    assert not answer.cookies


def test_nobody_is_told_that_they_are_off_a_list_when_nothing_takes_them_off(
    db, client, monkeypatch
):
    monkeypatch.setattr(unsubscribing.unsubscribed, "receivers", [])

    with pytest.raises(ImproperlyConfigured, match="No receiver"):
        client.post(unsubscribing.link(WISH), ONE_CLICK)


RECEIVER = """
from django.dispatch import receiver

from mailapp.unsubscribing import unsubscribed

left = []


@receiver(unsubscribed)
def take_off(list_address, address, **kwargs):
    left.append((list_address, address))
"""


def test_receiver_beside_the_handlers_is_found_though_no_mail_was_handled(
    db, client, settings, tmp_path, monkeypatch
):
    app = tmp_path / "leaving"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "handlers.py").write_text(RECEIVER)
    monkeypatch.syspath_prepend(tmp_path)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "leaving"]

    client.post(unsubscribing.link(WISH), ONE_CLICK)

    handlers = sys.modules.pop("leaving.handlers")
    unsubscribing.unsubscribed.disconnect(handlers.take_off)
    assert handlers.left == [WISH]


@pytest.mark.parametrize("method", ["get", "head"])
def test_program_that_follows_the_link_changes_nothing(db, left, client, method):
    answer = getattr(client, method)(unsubscribing.link(WISH))

    assert answer.status_code == 200
    assert left == []


@pytest.mark.parametrize("method", ["get", "post"])
def test_forged_link_leads_nowhere(db, left, client, method):
    forged = unsubscribing.link(WISH)[:-2] + "x/"

    assert getattr(client, method)(forged).status_code == 404
    assert left == []


def test_address_of_a_stranger_is_shown_and_not_run(db, client):
    link = unsubscribing.link(Wish("news@localhost", "<script>alert(1)</script>@client.test"))

    assert b"<script>" not in client.get(link).content
