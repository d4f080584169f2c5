"""What goes over the wire, and what a reply means."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailapp.relay import wire
from mailapp.relay.wire import Reply

CONTENT = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b".", b"..", b"a", b"\xff"]), max_size=30
).map(b"".join)


@given(CONTENT)
def test_nothing_bare_and_no_nul_is_on_the_wire_and_it_ends_once(raw: bytes):
    data = wire.data(raw)

    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", data)
    assert (b"\r\n" + data).find(b"\r\n.\r\n") == len(data) - 3


@given(CONTENT)
def test_server_receives_the_content_with_its_line_ends_made_whole(raw: bytes):
    whole = re.sub(rb"\r\n|\r|\n", b"\r\n", raw.replace(b"\0", b""))

    data = wire.data(raw)

    lines = data.removesuffix(b".\r\n").split(b"\r\n")[:-1]
    sent = [line.removeprefix(b".") for line in lines]
    assert b"\r\n".join([*sent, b""]) == (whole if whole.endswith(b"\r\n") else whole + b"\r\n")


def test_mail_that_is_whole_already_is_sent_octet_for_octet():
    raw = b"Subject: x\r\n\r\nbody \xff\r\n"

    assert wire.data(raw) == raw + b".\r\n"


@pytest.mark.parametrize(
    ("reply", "too_many"),
    [
        (Reply(452, "4.5.3 Too many recipients"), True),
        (Reply(452, "Too many recipients"), True),
        (Reply(452, "4.2.2 Mailbox full"), False),
        (Reply(452, "4.3.1 No space"), False),
        (Reply(450, "4.5.3 Too many"), False),
        (Reply(250, "Ok"), False),
    ],
)
def test_too_many_recipients_is_told_from_other_lacks(reply: Reply, too_many: bool):
    assert reply.too_many is too_many


def test_reply_is_one_line_of_bounded_length():
    reply = Reply.of(550, b"5.7.1 no\n5.7.1 never\r\0" + b"x" * 5000)

    assert str(reply).startswith("550 5.7.1 no 5.7.1 never x")
    assert str(reply).isprintable()
    assert len(str(reply)) < 1100
