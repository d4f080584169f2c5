"""What the integration tests have in common: certificates of their own, and a relay."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from django.core.management import CommandError, call_command

from tests.integration.scripted_server import ScriptedServer, scripted_server
from tests.waiting import DEADLINE

if TYPE_CHECKING:
    from mailapp.lifecycle import Life
    from mailapp.models import Message

OFFERS = "250-mx.test\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 PIPELINING"
RAW = b"From: you@example.com\r\nSubject: News\r\nMessage-ID: <1@example.com>\r\n\r\nHello\r\n"


class Certificate(NamedTuple):
    """Paths of PEM files."""

    chain: str  #: with its key, for localhost and 127.0.0.1
    authority: str  #: who vouches for it, and whom nobody else knows


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make a certificate and the authority that signed it."""
    import trustme

    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(str(folder / "chain.pem"), str(folder / "authority.pem"))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(made.authority)
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(made.chain)
    return made


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Start a smart host with replies of its own: `serve(RCPT="550 no", dot="250 ok")`."""
    with contextlib.ExitStack() as stack:

        def start(**script: str | list[str]) -> ScriptedServer:
            named = {{"dot": "."}.get(verb, verb): reply for verb, reply in script.items()}
            replies = {"EHLO": OFFERS, "RSET": "250 Flushed", **named}
            return stack.enter_context(scripted_server(replies))

        yield start


@pytest.fixture
def manage() -> Callable[..., tuple[str, str]]:
    """Run a command; return what it printed and what it complained of: `manage("importmail")`."""

    def run(command: str, *arguments: object) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        try:
            call_command(command, *map(str, arguments), stdout=out, stderr=err, no_color=True)
        except CommandError as error:
            err.write(f"{error}\n")
        return out.getvalue().strip(), err.getvalue().strip()

    return run


@pytest.fixture
def relay_settings(settings: Any) -> Callable[..., None]:
    """Have relays be quick, and send to a smart host: `relay_settings(server.address)`."""

    def use(address: str, **changes: Any) -> None:
        quick = {
            "RELAY": address,
            "RELAY_CONNECTIONS": 1,
            "RELAY_TIMEOUT": DEADLINE,
            "RELAY_REST_SECONDS": [0.01],
            "POLL_SECONDS": 0.05,
        }
        settings.MAIL = {**settings.MAIL, **quick, **changes}

    return use


@pytest.fixture
def relay(relay_settings: Callable[..., None]) -> Iterator[Callable[..., Life]]:
    """Run a relay in a thread until the test ends: `relay(server.address, RELAY_TIMEOUT=1)`."""
    from tests.integration.relaying import running_relay

    with contextlib.ExitStack() as stack:

        def start(address: str, **changes: Any) -> Life:
            relay_settings(address, **changes)
            return stack.enter_context(running_relay())

        yield start


@pytest.fixture
def post(message: Callable[..., Message]) -> Callable[..., Message]:
    """Queue a mail of ours: `post("reader@client.test", "you@client.test", sender="")`."""
    from mailapp.models import OUTGOING

    def make(*recipients: str, raw: bytes = RAW, sender: str = "you@example.com") -> Message:
        return message(raw=raw, sender=sender, recipients=recipients, queue=OUTGOING, protocol="")

    return make
