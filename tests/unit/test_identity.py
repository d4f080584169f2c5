"""Who wrote a mail."""

from __future__ import annotations

from mailapp import identity


def test_person_is_the_sender_folded():
    who = identity.of_sender("Ann.Smith@Example.COM")

    assert who is not None
    assert who.person == "ann.smith@example.com"


def test_nothing_is_proven_yet():
    who = identity.of_sender("ann@example.com")

    assert who is not None
    assert not who.proven


def test_letters_beyond_ascii_are_not_folded():
    assert identity.of_sender("\N{KELVIN SIGN}elvin@x") != identity.of_sender("kelvin@x")
    assert identity.of_sender("ÄNN@x") != identity.of_sender("änn@x")


def test_null_sender_is_nobody():
    assert identity.of_sender("") is None
