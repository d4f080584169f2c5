"""Errors: the docstring is the message, the class knows its reply."""

from __future__ import annotations

import inspect
import re

import pytest

from mailapp import errors
from mailapp.errors import MailError, NotHandled, SMTPError

CLASSES = [
    thing
    for _, thing in inspect.getmembers(errors, inspect.isclass)
    if issubclass(thing, MailError) and thing is not SMTPError
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_says_its_name_in_words_and_has_a_reply(error):
    assert str(error()) == error.__doc__.strip().splitlines()[0]
    assert re.fullmatch(r"[45]\d\d [45]\.\d\.\d [ -~]+", error().reply)
    assert error().reply[0] == error().reply[4]


def test_detail_is_for_the_operator_alone():
    error = NotHandled("news@example.com")

    assert str(error).endswith("from this sender: news@example.com")
    assert "news" not in error.reply


def test_reply_may_be_another_for_one_error():
    error = NotHandled(reply="450 4.7.1 Not now")

    assert error.reply == "450 4.7.1 Not now"
    assert not error.permanent
    assert NotHandled().permanent


@pytest.mark.parametrize(
    ("arguments", "reply", "permanent"),
    [
        ((550, "The list is closed"), "550 5.0.0 The list is closed", True),
        ((450, "Later"), "450 4.0.0 Later", False),
        ((550, "No", "5.7.1"), "550 5.7.1 No", True),
    ],
)
def test_reply_of_a_handler_is_its_own(arguments, reply, permanent):
    error = SMTPError(*arguments)

    assert error.reply == str(error) == reply
    assert error.permanent is permanent


@pytest.mark.parametrize("code", [250, 354, 399, 600, 0])
def test_handler_can_only_refuse(code):
    with pytest.raises(ValueError, match="4xx or 5xx"):
        SMTPError(code, "Yes")


@pytest.mark.parametrize("text", ["a\r\n250 OK", "a\nb", "a\0", "a\x85b", "a\u2028b"])
def test_reply_of_a_handler_is_one_line(text):
    with pytest.raises(ValueError, match="one printable line"):
        SMTPError(550, text)
