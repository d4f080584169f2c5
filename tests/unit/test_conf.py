"""The settings: typed, checked, and written down as they are."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from mailapp.conf import MailSettings, mail_settings, problems

ROOT = Path(__file__).parent.parent.parent


def test_no_key_is_needed():
    assert problems({}) == []
    assert MailSettings().HOSTS == ["localhost"]


def test_defaults_pass_their_own_checks():
    defaults = MailSettings()

    assert problems({f.name: getattr(defaults, f.name) for f in fields(MailSettings)}) == []


def test_each_setting_has_a_line_of_documentation():
    assert [f.name for f in fields(MailSettings) if not f.metadata["doc"].endswith(".")] == []


def test_instances_do_not_share_their_defaults():
    MailSettings().HOSTS.append("example.com")

    assert MailSettings().HOSTS == ["localhost"]


@pytest.mark.parametrize(
    ("key", "near"), [("HOST", "HOSTS"), ("hosts", "HOSTS"), ("BATCHSIZE", "BATCH_SIZE")]
)
def test_unknown_key_is_an_error_that_names_the_nearest(key, near):
    assert problems({key: 1}) == [f'MAIL["{key}"] is not a setting; did you mean "{near}"?']


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("HOSTS", "example.com", "must be a list"),
        ("HOSTS", [], "needs at least one domain"),
        ("HOSTS", [1], "each item must be str, not int"),
        ("HOSTS", ["Example.com"], "'Example.com' is not a domain in lower-case ASCII"),
        ("HOSTS", ["münchen.example"], "(use its A-label)"),
        ("HOSTS", ["you@example.com"], "is not a domain"),
        ("HOSTS", [" "], "is not a domain"),
        ("HOSTS", ["*"], "'*' is not a domain"),
        ("HOSTS", ["example.com "], "'example.com ' is not a domain"),
        ("HOSTS", ["example.com."], "is not a domain"),
        ("HOSTNAME", "mx example.com", "'mx example.com' is not a domain"),
        ("RECEIVER", "8823", "'8823' is not host:port"),
        ("RECEIVER", "localhost:smtp", "is not host:port"),
        ("RECEIVER", "localhost:65536", "is not host:port"),
        ("RECEIVER", ":25", "is not host:port"),
        ("RECEIVER", "", "is not host:port"),
        ("CATCHER", "nowhere", "is not host:port"),
        ("RELAY", 25, "must be str, not int, or must be a list"),
        ("RELAY", [25], "each item must be str, not int"),
        ("RELAY", [], "needs at least one smart host or email backend"),
        ("RELAY", "", "must be smtp://"),
        ("RELAY", ["127.0.0.1:25", "http://example.com"], "must be smtp://"),
        ("RELAY_PASSWORD", "geheimä", "can only be ASCII"),
        ("UNSUBSCRIBE_URL", "https://example.com/leave", "with a slash at its end"),
        ("UNSUBSCRIBE_URL", "example.com/leave/", "is not https://"),
        ("UNSUBSCRIBE_URL", "https://example.com/>\r\nX: /", "is not https://"),
        ("DMARC_DOMAINS", ["you@example.com"], "is not a domain"),
        ("ANSWERS_AN_HOUR", -1, "must not be less than zero"),
        ("ANSWERS_A_DAY", 1.5, "must be int, not float"),
        ("SUPPRESS_AFTER", 0, "must be more than zero"),
        ("BATCH_SIZE", 0, "must be between 1 and 1000"),
        ("BATCH_SIZE", 1001, "must be between 1 and 1000"),
        ("BATCH_SIZE", 1.5, "must be int, not float"),
        ("BATCH_SIZE", True, "must be int, not bool"),
        ("POLL_SECONDS", True, "must be float, not bool"),
        ("HANDLER_SECONDS", float("inf"), "must be at most 1000000000"),
        ("RETRY_DAYS", 36501, "must be days, more than 0, at most 36500"),
        ("ATOMIC_HANDLERS", 1, "must be bool, not int"),
        ("RETRY_SECONDS", [], "needs positive numbers"),
        ("RETRY_SECONDS", [10, -1], "needs positive numbers"),
        ("RETRY_SECONDS", [1e12], "each item must be at most 1000000000"),
        ("RETRY_SECONDS", [float("nan")], "each item must be at most 1000000000"),
        ("RETRY_SECONDS", ["10"], "each item must be float, not str"),
        ("ROUTER_DEFAULTS", [], "must be a dict"),
        ("ROUTER_DEFAULTS", {"list_name": 1}, "each value must be str, not int"),
        ("KEEP", {"queued": 1}, "can only have done, failed, held, transitions, processes"),
        ("KEEP", {"done": -1}, "must be days, between 0 and 36500"),
        ("KEEP", {"done": 1e6}, "must be days, between 0 and 36500"),
        ("KEEP", {"done": "30"}, "each value must be float, not str"),
        ("DKIM", {"example.com": "key.pem"}, "each value must be a dict"),
        ("DKIM", {"example.com": {"2026": 1}}, "must be str, not int"),
        ("DKIM", {"example.com": {}}, "needs a selector and its key for each domain"),
        ("DKIM", {"Example.com": {"2026": "key.pem"}}, "is not a domain in lower-case ASCII"),
        ("DKIM", {"example.com": {"a b": "key.pem"}}, "'a b' is not a domain"),
        ("WORKER_MEMORY", 1 << 20, "must be 0 or 67108864 or more"),
        ("WORKER_MEMORY", 1 << 70, "must be at most 4611686018427387904"),
        ("TRUSTED_NETWORKS", ["127.0.0.1/8"], "has host bits set"),
        ("BARE_LINE_ENDS", "keep", "must be one of refuse, normalise"),
    ],
)
def test_wrong_value_is_an_error_that_says_why(key, value, problem):
    [found] = problems({key: value})

    assert found.startswith(f'MAIL["{key}"] ')
    assert problem in found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HOSTS", ("example.com", "xn--mnchen-3ya.example")),
        ("RECEIVER", "[::1]:25"),
        ("RECEIVER", "localhost:0"),
        ("CATCHER", ""),
        ("RELAY", ("smtp://user:secret@example.com:587", "lmtp:///run/lmtp")),
        ("RELAY", "anymail.backends.mailgun.EmailBackend"),
        ("POLL_SECONDS", 1),
        ("RETRY_SECONDS", (1, 2.5)),
        ("KEEP", {"done": 0.5, "held": 0}),
        ("DKIM", {"example.com": {"2026.mail": "a.pem", "2027": "b.pem"}}),
        ("UNSUBSCRIBE_URL", "http://localhost:8000/unsubscribe/"),
        ("DMARC_DOMAINS", []),
        ("ANSWERS_A_DAY", 0),
        ("WORKER_MEMORY", 0),
        ("TRUSTED_NETWORKS", []),
    ],
)
def test_right_value_is_none(key, value):
    assert problems({key: value}) == []


def test_every_fault_is_told_at_once():
    with (
        override_settings(MAIL={"HOST": [], "BATCH_SIZE": 0}),
        pytest.raises(ImproperlyConfigured, match=r"(?s)HOST.*BATCH_SIZE"),
    ):
        mail_settings()


def test_settings_follow_those_of_django():
    with override_settings(MAIL={"WORKERS": 3}):
        assert mail_settings().WORKERS == 3

    with override_settings(MAIL={}):
        assert mail_settings().WORKERS == 1


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        MailSettings().WORKERS = 2


def test_hostname_is_the_first_host_unless_it_is_set():
    assert MailSettings(HOSTS=["example.com", "example.org"]).hostname == "example.com"
    assert MailSettings(HOSTNAME="mail.example.com").hostname == "mail.example.com"


def test_password_of_a_relay_is_its_own_or_the_one_of_the_settings():
    hosts = ["smtp://user:ours@example.com", "smtp://user@example.org", "smtp://localhost"]

    conf = MailSettings(RELAY=hosts, RELAY_PASSWORD="theirs")

    assert [host.password for host in conf.upstreams] == ["ours", "theirs", ""]
    assert "ours" not in repr(conf) + repr(conf.upstreams)
    assert "theirs" not in repr(conf) + repr(conf.upstreams)


def test_page_of_settings_names_each_variable_of_the_environment():
    source = (ROOT / "lamson_project" / "settings.py").read_text()
    read = set(re.findall(r'(?:environ\.get|_flag|_list)\("(\w+)"', source))

    named = set(
        re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    )

    assert "DATABASE_URL" in read
    assert read <= named
