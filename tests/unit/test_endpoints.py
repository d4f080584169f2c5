"""What a setting says of where we listen, and of where mail goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailapp.endpoints import Backend, Endpoint, SmartHost, Tls, upstream


@pytest.mark.parametrize("text", ["127.0.0.1:25", "[::1]:25", "mail.example.com:25"])
def test_endpoint_is_written_as_it_is_read(text):
    assert str(Endpoint.parse(text)) == text


def test_endpoint_has_the_bare_address_as_its_host():
    assert Endpoint.parse("[::1]:25") == ("::1", 25)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
    ],
)
def test_only_what_never_leaves_this_machine_is_here(host, here):
    assert Endpoint(host, 25).is_here is here


@pytest.mark.parametrize(
    ("text", "url", "tls"),
    [
        ("mail.example.com:25", "smtp://mail.example.com:25", Tls.VERIFIED),
        ("smtp://mail.example.com", "smtp://mail.example.com:25", Tls.VERIFIED),
        ("smtps://mail.example.com", "smtps://mail.example.com:465", Tls.VERIFIED),
        ("lmtp://mail.example.com", "lmtp://mail.example.com:24", Tls.VERIFIED),
        ("SMTP://Mail.Example.com", "smtp://mail.example.com:25", Tls.VERIFIED),
        ("smtp://[2001:db8::1]:2525", "smtp://[2001:db8::1]:2525", Tls.VERIFIED),
        ("smtp://10.0.0.1?tls=none", "smtp://10.0.0.1:25", Tls.NONE),
        ("smtp://10.0.0.1?tls=unverified", "smtp://10.0.0.1:25", Tls.UNVERIFIED),
        ("127.0.0.1:8899", "smtp://127.0.0.1:8899", Tls.NONE),
        ("lmtp:///run/mail/lmtp", "lmtp:///run/mail/lmtp", Tls.NONE),
        ("smtp://localhost?tls=verified", "smtp://localhost:25", Tls.VERIFIED),
        ("smtps://localhost", "smtps://localhost:465", Tls.VERIFIED),
    ],
)
def test_smart_host_is_verified_unless_it_is_here_or_it_is_said_otherwise(text, url, tls):
    host = upstream(text)

    assert isinstance(host, SmartHost)
    assert (str(host), host.tls) == (url, tls)


def test_lmtp_without_a_host_is_a_unix_socket():
    assert SmartHost.parse("lmtp:///run/a%20b").place == Path("/run/a b")


def test_password_is_read_and_never_written():
    host = SmartHost.parse("smtp://some%40one:p%3Aw%2F@mail.example.com:587")

    assert (host.user, host.password) == ("some@one", "p:w/")
    assert str(host) == "smtp://some%40one@mail.example.com:587"
    assert "p:w/" not in repr(host)


@pytest.mark.parametrize("text", ["django.core.mail.backends.smtp.EmailBackend", "out-1", "out"])
def test_other_names_are_those_of_email_backends(text):
    assert upstream(text) == Backend(text)


@pytest.mark.parametrize(
    "text",
    [
        "smtp://user:geheim",
        "smtp://user:geheim@",
        "smtp://user:gehe/im@example.com",
        "smtp://user:gehe#im@example.com",
        "smtp://user:gehe?im@example.com",
        "smtp://us#er:geheim@example.com",
        "smtp://user:geheim@example.com:port",
        "smtp://user:geheim@example.com:99999",
        "smtp://user:geheim@example.com/geheim",
        "smtp://user:geheim@[::1",
        "smtp://user:geheim@exa mple.com",
        "smtp://user:geheim@example.com?tls=maybe",
        "smtp://user:geheim@example.com?geheim=none",
        "smtp://user:geheim@example.com?tls=none&tls=verified",
        "smtps://user:geheim@localhost?tls=none",
        "smtp://user:geheim@example.com?tls=none",
        "smtp://user:geheimä@example.com",
        "http://user:geheim@example.com",
        "lmtp://user:geheim@/run/lmtp",
        "user:geheim@example.com",
    ],
)
def test_what_is_wrong_is_told_without_the_password(text):
    with pytest.raises(ValueError, match=r"^(must|can|needs) ") as wrong:
        upstream(text)

    assert "gehe" not in str(wrong.value)
