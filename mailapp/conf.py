"""The settings of the framework: one typed dict `MAIL`, read in one place.

Every key has a type, a default, a check and a line of documentation, all here.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from mailapp.endpoints import Endpoint, SmartHost, Upstream, upstream

#: The `OPTIONS` of a SQLite database. Every 250 is a commit that survives a power cut, so FULL;
#: writers queue, so IMMEDIATE; a page that is written again and again goes into the database a
#: quarter as often, so 4000.
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
    "PRAGMA wal_autocheckpoint=4000;",
}

#: What a queue can be called: short and plain, since files and channels are named after it.
QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,48}")


def _setting(
    default: Any,
    doc: str,
    check: Callable[[Any], str | None] | None = None,
    *,
    secret: bool = False,
) -> Any:
    metadata = {"doc": doc, "check": check}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata, repr=not secret)


def _is_endpoint(value: str) -> str | None:
    try:
        Endpoint.parse(value)
    except ValueError as error:
        return str(error)
    return None


def _is_endpoint_or_empty(value: str) -> str | None:
    return _is_endpoint(value) if value else None


def _is_place_or_empty(value: str) -> str | None:
    return None if value.startswith("/") else _is_endpoint_or_empty(value)


def _are_upstreams(value: str | list[str]) -> str | None:
    try:
        return None if _upstreams(value) else "needs at least one smart host or email backend"
    except ValueError as error:
        return str(error)


def _upstreams(value: str | list[str]) -> list[Upstream]:
    return [upstream(text) for text in ([value] if isinstance(value, str) else value)]


def _is_ascii(value: str) -> str | None:
    return None if value.isascii() else "can only be ASCII"


def _is_positive(value: float) -> str | None:
    return None if value > 0 else "must be more than zero"


def _is_not_negative(value: float) -> str | None:
    return None if value >= 0 else "must not be less than zero"


def _are_positive(value: list[float]) -> str | None:
    return None if value and all(item > 0 for item in value) else "needs positive numbers"


_MOST_DAYS = 36500
_MOST = {float: 10**9, int: 2**62}  # with more, dates, timers and limits of the system overflow
_LEAST_MEMORY = 64 * 1024 * 1024


def _is_days(value: float) -> str | None:
    return None if 0 < value <= _MOST_DAYS else f"must be days, more than 0, at most {_MOST_DAYS}"


def _is_memory_or_zero(value: int) -> str | None:
    return None if value == 0 or value >= _LEAST_MEMORY else f"must be 0 or {_LEAST_MEMORY} or more"


def _is_up_to_a_thousand(value: int) -> str | None:
    return None if 0 < value <= 1000 else "must be between 1 and 1000"


def _are_days_of(*words: str) -> Callable[[dict[str, float]], str | None]:
    def problem(value: dict[str, float]) -> str | None:
        if not set(value) <= set(words):
            return f"can only have {', '.join(words)}"
        fits = all(0 <= days <= _MOST_DAYS for days in value.values())
        return None if fits else f"must be days, between 0 and {_MOST_DAYS}"

    return problem


def _is_one_of(*words: str) -> Callable[[str], str | None]:
    return lambda value: None if value in words else f"must be one of {', '.join(words)}"


def _is_queue_of_your_own(value: str) -> str | None:
    if value in {"incoming", "outgoing", "undeliverable"}:
        return f"cannot be {value}, where mail is worked"
    return None if QUEUE_NAME.fullmatch(value) else "must be 1 to 48 letters, digits, _ or -"


_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"  # RFC 1123 2.1
_DOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")


def _is_domain(value: str) -> str | None:
    if _DOMAIN.fullmatch(value):
        return None
    return f"{value!r} is not a domain in lower-case ASCII (use its A-label)"


def _is_domain_or_empty(value: str) -> str | None:
    return _is_domain(value) if value else None


_FOLDER_URL = re.compile(r"https?://[!-;=?-~]+/")


def _is_url_or_empty(value: str) -> str | None:
    if not value or _FOLDER_URL.fullmatch(value):
        return None
    return f"{value!r} is not https://…/, with a slash at its end"


def _are_domains(value: list[str]) -> str | None:
    return next(filter(None, map(_is_domain, value)), None)


def _are_hosts(value: list[str]) -> str | None:
    if not value:
        return "needs at least one domain"
    return _are_domains(value)


def _are_networks(value: list[str]) -> str | None:
    for network in value:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            return str(error)
    return None


def _are_keys_of_domains(value: dict[str, dict[str, str]]) -> str | None:
    if not all(value.values()):
        return "needs a selector and its key for each domain"
    names = [*value, *(selector for selectors in value.values() for selector in selectors)]
    return next(filter(None, map(_is_domain, names)), None)


@dataclass(frozen=True, kw_only=True)
class MailSettings:
    """`settings.MAIL`, checked. Durations are seconds, sizes are octets, unless said otherwise."""

    HOSTS: list[str] = _setting(
        ["localhost"], "Domains that mail is accepted for, in lower case.", _are_hosts
    )
    HOSTNAME: str = _setting(
        "",
        "Our name in the SMTP banner and in Message-ID; empty: the first of `HOSTS`.",
        _is_domain_or_empty,
    )
    RECEIVER: str = _setting(
        "127.0.0.1:8823", "Where the receiver listens, as `host:port`.", _is_endpoint
    )
    RELAY: str | list[str] = _setting(
        "127.0.0.1:8899",
        "Where outgoing mail goes: the smart host as a URL, or another Django email backend; or "
        "several, of which the first that is well gets it. See deploy.md.",
        _are_upstreams,
        secret=True,
    )
    RELAY_PASSWORD: str = _setting(
        "", "The password of users in `RELAY` that have none there.", _is_ascii, secret=True
    )
    RELAY_CA_FILE: str = _setting(
        "",
        "PEM file of the authorities that vouch for smart hosts; empty: those that this system "
        "trusts.",
    )
    CATCHER: str = _setting(
        "",
        "Where `runmail` starts the private mail catcher for development; empty: nowhere.",
        _is_endpoint_or_empty,
    )
    CATCHER_QUEUE: str = _setting("run/queue", "The Maildir that the catcher writes to.")
    COPIES_QUEUE: str = _setting(
        "copies", "The queue that `mailapp.handlers.queue` copies mail to.", _is_queue_of_your_own
    )
    WEB: str = _setting(
        "",
        "Where `runmail` serves the admin for development; empty: nowhere.",
        _is_endpoint_or_empty,
    )
    RELOAD: bool = _setting(
        True, "With `DEBUG`, load handlers anew when code or templates change; never without."
    )
    RUN_DIR: str = _setting("run", "Folder for wake-up sockets and other things of this machine.")
    LOG_DIR: str = _setting("logs", "Folder of the logs of what runs with `--detach`.")
    ROUTER_DEFAULTS: dict[str, str] = _setting(
        {}, "Regular expressions for captures that a route does not define itself."
    )
    MAX_MESSAGE_SIZE: int = _setting(
        25 * 1024 * 1024, "The largest message that is taken in.", _is_positive
    )
    BARE_LINE_ENDS: str = _setting(
        "refuse",
        "What becomes of a mail with a bare CR or LF: `refuse` or `normalise`.",
        _is_one_of("refuse", "normalise"),
    )
    RECEIVER_PROCESSES: int = _setting(
        1, "Receivers under `runmail`, which share the ports.", _is_positive
    )
    RECEIVER_TLS: str = _setting(
        "", "Where the receiver listens for TLS from the first byte.", _is_endpoint_or_empty
    )
    LMTP: str = _setting(
        "", "Where LMTP is served: `host:port`, or the path of a Unix socket.", _is_place_or_empty
    )
    SUBMISSION: str = _setting(
        "", "Where Django users submit mail, after STARTTLS and AUTH.", _is_endpoint_or_empty
    )
    SUBMISSION_TLS: str = _setting(
        "", "Where Django users submit mail under TLS from the first byte.", _is_endpoint_or_empty
    )
    TLS_CERTIFICATE: str = _setting("", "PEM file with our certificate chain; empty: no TLS.")
    TLS_KEY: str = _setting("", "PEM file with its key; empty: it is in `TLS_CERTIFICATE`.")
    PROXY_NETWORKS: list[str] = _setting(
        [],
        "Networks of proxies, which must begin each connection with the PROXY protocol.",
        _are_networks,
    )
    GREET_SECONDS: float = _setting(
        0.005, "Wait before the greeting; who talks meanwhile is refused.", _is_positive
    )
    MAX_CONNECTIONS: int = _setting(20_000, "Connections of one receiver.", _is_positive)
    MAX_CONNECTIONS_PER_ADDRESS: int = _setting(
        50, "Connections from one IPv4 address or one IPv6 /64.", _is_positive
    )
    MAX_RECIPIENTS: int = _setting(100, "Recipients of one transaction.", _is_positive)
    MAX_ERRORS: int = _setting(
        20, "Commands that may be refused in a session without a mail in between.", _is_positive
    )
    MAX_JUNK_COMMANDS: int = _setting(
        100,
        "Greetings, NOOP, RSET, VRFY and HELP in a session without a mail.",
        _is_positive,
    )
    MAX_COMMANDS: int = _setting(100_000, "Commands in one session.", _is_positive)
    READ_TIMEOUT: float = _setting(
        300,
        "How long a client may take for a command or for TLS, or be silent within a mail.",
        _is_positive,
    )
    MIN_DATA_RATE: float = _setting(
        100, "Octets a second at which a mail must come in, on average.", _is_positive
    )
    DATA_GRACE_SECONDS: float = _setting(
        60, "How long a mail may come in at any rate.", _is_positive
    )
    SESSION_SECONDS: float = _setting(2 * 3600, "How long a session may last.", _is_positive)
    COMMIT_SECONDS: float = _setting(
        5, "How long a client waits for the database before it is told to try again.", _is_positive
    )
    DATABASE_AWAY_SECONDS: float = _setting(
        30, "Absence of the database after which nobody is let in.", _is_positive
    )
    MIN_FREE_SPACE: int = _setting(
        100 * 1024 * 1024, "Free octets on our disks under which no mail is taken.", _is_positive
    )
    LOGIN_TRIES: int = _setting(3, "Failed logins in one session.", _is_positive)
    LOGIN_TRIES_PER_HOUR: int = _setting(
        10, "Failed logins an hour from one IPv4 address or one IPv6 /64.", _is_positive
    )
    RETRY_DAYS: float = _setting(
        7, "How long a mail is known that was stored, though its sender may not know.", _is_days
    )
    INLINE_SIZE: int = _setting(
        256 * 1024,
        "Messages up to this size live in the database, larger ones in the storage `mail`.",
        _is_positive,
    )
    ENGINE: str = _setting(
        "local",
        "Who calls the handlers: `local`, `celery`, `procrastinate` or `tasks`; see engines.md.",
        _is_one_of("local", "celery", "procrastinate", "tasks"),
    )
    WORKERS: int = _setting(1, "Worker processes under `runmail` (one, on SQLite).", _is_positive)
    BATCH_SIZE: int = _setting(50, "Deliveries that a worker claims at once.", _is_up_to_a_thousand)
    BATCH_SECONDS: float = _setting(
        0.25, "How long a batch may run before what is done is committed.", _is_positive
    )
    HANDLER_SECONDS: float = _setting(
        60, "How long a handler may take before its worker is killed over it.", _is_positive
    )
    WORKER_MEMORY: int = _setting(
        512 * 1024 * 1024,
        "Memory that a worker may take before its handler fails; 0: all that there is.",
        _is_memory_or_zero,
    )
    ATOMIC_HANDLERS: bool = _setting(
        True, "Run each state function in a transaction with the state and the mail it causes."
    )
    RETRY_SECONDS: list[float] = _setting(
        [10, 60, 300, 900, 3600, 14400, 43200],
        "Waits between the tries of a handler; after the last the delivery is held.",
        _are_positive,
    )
    ANSWERS_AN_HOUR: int = _setting(
        10,
        "Answers of one handler to one person within an hour; more are held. 0: any number.",
        _is_not_negative,
    )
    ANSWERS_A_DAY: int = _setting(50, "The same within a day.", _is_not_negative)
    DKIM: dict[str, dict[str, str]] = _setting(
        {},
        "The keys that our own mail is signed with: by the domain of the author, then by selector, "
        "the PEM file of an RSA or Ed25519 key.",
        _are_keys_of_domains,
    )
    ADMIN_URL: str = _setting(
        "", "Where the admin is, for links to each mail in the log; empty: none.", _is_url_or_empty
    )
    UNSUBSCRIBE_URL: str = _setting(
        "",
        "Where `mailapp.urls` serves `unsubscribe/`, for links in the mail of lists; empty: none.",
        _is_url_or_empty,
    )
    DMARC_DOMAINS: list[str] = _setting(
        [],
        "Domains with a DMARC policy of quarantine or reject, for lists that rewrite such authors.",
        _are_domains,
    )
    SUPPRESS_AFTER: int = _setting(
        5,
        "Mails that fail at an address, short of it being unknown, until it gets no more.",
        _is_positive,
    )
    SUPPRESS_WITHIN_DAYS: float = _setting(
        14, "How long such a failure counts against an address.", _is_days
    )
    SUPPRESS_DAYS: float = _setting(90, "How long an address gets no mail after that.", _is_days)
    RELAY_CONNECTIONS: int = _setting(
        4, "Connections that the relay keeps to the smart host at once.", _is_positive
    )
    RELAY_RECIPIENTS: int = _setting(
        100,
        "Recipients of one transaction with the smart host; RFC 5321 makes it take 100.",
        # More commands at once than fit into the buffers of both sides could block both for good.
        _is_up_to_a_thousand,
    )
    RELAY_RETRY_SECONDS: list[float] = _setting(
        [60, 120, 300, 600, 1200, 2400, 3600],
        "Waits between the tries of the relay; the last repeats until `RELAY_GIVE_UP_SECONDS`.",
        _are_positive,
    )
    RELAY_GIVE_UP_SECONDS: float = _setting(
        5 * 86400, "Age at which an undelivered outgoing mail fails.", _is_positive
    )
    DELAY_NOTICE_SECONDS: float = _setting(
        0,
        "Age at which the sender of an outgoing mail is told that it is late; 0: never.",
        _is_not_negative,
    )
    RELAY_TIMEOUT: float = _setting(
        60,
        "How long the relay waits for one reply; ten times as long for that to a whole mail.",
        _is_positive,
    )
    RELAY_IDLE_SECONDS: float = _setting(
        10, "How long the relay keeps a connection open without mail to send.", _is_positive
    )
    RELAY_REST_SECONDS: list[float] = _setting(
        [1, 2, 5, 10, 30, 60],
        "How long a smart host in trouble is left alone, longer each time; the last repeats.",
        _are_positive,
    )
    KEEP: dict[str, float] = _setting(
        {"done": 30, "failed": 90, "held": 0, "transitions": 365, "processes": 30},
        "Days that things are kept: deliveries by status since their last try, with their "
        "messages; `transitions`; `processes`. What is 0 or not named is kept for ever.",
        _are_days_of("done", "failed", "held", "transitions", "processes"),
    )
    POLL_SECONDS: float = _setting(
        5, "How often a worker looks for due mail when nothing wakes it.", _is_positive
    )
    HEARTBEAT_SECONDS: float = _setting(
        5, "How often a process says that it is alive.", _is_positive
    )
    DEAD_AFTER_SECONDS: float = _setting(
        30,
        "Silence after which a process counts as dead and its claims are released.",
        _is_positive,
    )
    DRAIN_SECONDS: float = _setting(
        30, "How long a process may finish its work after SIGTERM.", _is_positive
    )
    TRUSTED_NETWORKS: list[str] = _setting(
        ["127.0.0.0/8", "::1/128"],
        "Networks that the limits for each address do not apply to.",
        _are_networks,
    )

    @property
    def hostname(self) -> str:
        """The name we go by."""
        return self.HOSTNAME or self.HOSTS[0]

    @property
    def places(self) -> list[str]:
        """Where `runmail` listens: `host:port`, or the path of a Unix socket."""
        doors = (self.RECEIVER, self.RECEIVER_TLS, self.LMTP, self.SUBMISSION, self.SUBMISSION_TLS)
        return [place for place in (*doors, self.CATCHER, self.WEB) if place]

    @property
    def upstreams(self) -> list[Upstream]:
        """Where outgoing mail goes, the first choice first, with the passwords."""
        return [self._with_password(each) for each in _upstreams(self.RELAY)]

    def _with_password(self, each: Upstream) -> Upstream:
        if isinstance(each, SmartHost) and each.user and not each.password:
            return replace(each, password=self.RELAY_PASSWORD)
        return each


def _type_problem(value: Any, wanted: Any) -> str | None:
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        found = [_type_problem(value, each) for each in args]
        return None if None in found else ", or ".join(filter(None, found))
    if origin is list:
        if not isinstance(value, (list, tuple)):
            return "must be a list"
        problems = (_type_problem(item, args[0]) for item in value)
        return next((f"each item {problem}" for problem in problems if problem), None)
    if origin is dict:
        if not isinstance(value, Mapping):
            return "must be a dict"
        problems = (_type_problem(item, args[1]) for item in value.values())
        return next((f"each value {problem}" for problem in problems if problem), None)
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        return f"must be {wanted.__name__}, not {type(value).__name__}"
    if wanted in _MOST and not value <= _MOST[wanted]:
        return f"must be at most {_MOST[wanted]}"
    return None


def problems(values: Any) -> list[str]:
    """Say what is wrong with a `MAIL` dict, a sentence for each fault."""
    if not isinstance(values, Mapping):
        return [f"MAIL must be a dict, not {type(values).__name__}"]
    known = {f.name: f for f in fields(MailSettings)}
    hints = typing.get_type_hints(MailSettings)
    found = []
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key).upper(), known, n=1, cutoff=0)
            found.append(f'MAIL["{key}"] is not a setting; did you mean "{near[0]}"?')
            continue
        check = known[key].metadata["check"]
        problem = _type_problem(value, hints[key]) or (check(value) if check else None)
        if problem:
            found.append(f'MAIL["{key}"] {problem}')
    return found


@lru_cache(maxsize=1)
def mail_settings() -> MailSettings:
    """Return `settings.MAIL` with its defaults; raise ImproperlyConfigured when it is wrong."""
    values = getattr(settings, "MAIL", {})
    if found := problems(values):
        raise ImproperlyConfigured("\n".join(found))
    return MailSettings(**values)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "MAIL":
        mail_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="mailapp.conf")
