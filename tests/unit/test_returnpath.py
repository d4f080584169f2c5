"""Addresses that bounces come back to, and that nobody else can make."""

from __future__ import annotations

import pytest

from mailapp import returnpath
from mailapp.addresses import split

BIGGEST = 2**59  # a key of eighteen digits


def test_address_of_a_delivery_names_it():
    address = returnpath.of_delivery(42, "example.com")

    assert address.startswith("bounce+42-")
    assert returnpath.delivery_of(address) == 42


def test_address_of_any_delivery_fits_into_a_local_part():
    local, _ = split(returnpath.of_delivery(BIGGEST, "example.com"))

    assert len(local) <= 64
    assert returnpath.delivery_of(f"{local}@example.com") == BIGGEST


def test_case_of_a_return_path_does_not_matter():
    assert returnpath.delivery_of(returnpath.of_delivery(42, "example.com").upper()) == 42


@pytest.mark.parametrize(
    "local", ["bounce+42-aaaaaaaaaa", "bounce+42-", "bounce+42", "bounce", "news", ""]
)
def test_forged_address_names_no_delivery(local):
    assert returnpath.delivery_of(f"{local}@example.com") is None


def test_tag_of_one_delivery_is_none_of_another():
    forged = returnpath.of_delivery(42, "example.com").replace("+42-", "+43-")

    assert returnpath.delivery_of(forged) is None


def test_tag_is_good_while_its_key_is_a_fallback(settings):
    address = returnpath.of_delivery(42, "example.com")

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]
    assert returnpath.delivery_of(address) == 42

    settings.SECRET_KEY_FALLBACKS = []
    assert returnpath.delivery_of(address) is None


@pytest.mark.parametrize(
    "sender", ["ann@client.test", "Ann.Lee+tag@client.test", "a=b=c@client.test", "x=@client.test"]
)
def test_srs_address_stands_for_the_sender(sender):
    address = returnpath.of_sender(sender, "example.com")

    assert address.startswith("SRS0=")
    assert address.endswith("@example.com")
    assert returnpath.sender_of(address) == sender


def test_srs_address_survives_the_loss_of_case():
    address = returnpath.of_sender("Ann@client.test", "example.com")

    assert returnpath.sender_of(address.lower()) == "ann@client.test"


@pytest.mark.parametrize(
    "sender", ["a" * 40 + "@client.test", '"ann lee"@client.test', "ann@[192.0.2.1]"]
)
def test_sender_that_does_not_fit_stays(sender):
    assert returnpath.of_sender(sender, "example.com") == sender


@pytest.mark.parametrize(
    "local",
    [
        "SRS0=\N{KELVIN SIGN}aaaaaaaaa=aa=client.test=ann",
        "SRS0=aaaaaaaaaa=\N{LATIN SMALL LETTER LONG S}a=client.test=ann",
    ],
)
def test_letter_that_only_looks_like_one_of_ascii_is_forged(local):
    assert returnpath.sender_of(f"{local}@example.com") is None


def test_srs_address_with_another_sender_is_forged():
    address = returnpath.of_sender("ann@client.test", "example.com")

    assert returnpath.sender_of(address.replace("=ann@", "=bob@")) is None
    assert returnpath.sender_of(address.replace("client.test", "elsewhere.test")) is None


@pytest.mark.parametrize(("days", "expected"), [(21, "ann@client.test"), (22, None), (900, None)])
def test_srs_address_is_good_for_three_weeks(days, expected):
    address = returnpath.of_sender("ann@client.test", "example.com", days_ago=days)

    assert returnpath.sender_of(address) == expected
