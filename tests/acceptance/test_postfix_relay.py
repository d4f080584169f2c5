"""A real Postfix as the smart host: what it takes, refuses and puts off, and what comes back."""

from __future__ import annotations

import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from mailapp.endpoints import Endpoint
from tests.integration.scripted_server import scripted_server
from tests.postfix import Door, NoPostfix, Postfix, own_postfix, smtp_to
from tests.waiting import wait_until

if TYPE_CHECKING:
    from mailapp.models import Delivery
    from tests.project import Project

ADDRESS = "mail-count@example.com"  # answers whoever writes to it
TAKEN, PUT_OFF_LATER = "taken@taken.test", "away@away.test"
UNKNOWN, LATER, GONE = "unknown@taken.test", "later@taken.test", "gone@gone.test"

# What Postfix speaks does not depend on the database.
pytestmark = pytest.mark.any_database


@pytest.fixture
def site(project: Callable[..., Project], tmp_path: Path) -> Iterator[tuple[Project, Postfix]]:
    """A whole mail server whose smart host is a Postfix, to which it proves nothing."""
    running = project(
        DJANGO_SETTINGS_MODULE="tests.acceptance.settings",
        MAIL_HOSTS="example.com",
        MAIL_CATCHER="",
        WEB="",
    )
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "chain.pem"))
    running.environment |= {
        "MAIL_RELAY": f"smtp://{running.catcher}?tls=verified",
        "MAIL_RELAY_CA_FILE": str(tmp_path / "authority.pem"),
    }
    door = Door(
        running.catcher,
        str(tmp_path / "chain.pem"),
        {UNKNOWN: "550 5.1.1 Who is that?", LATER: "450 4.2.0 Greylisted"},
    )
    with scripted_server({"RCPT": "550 5.1.1 Nobody of that name"}) as next_server:
        transports = {
            "example.com": smtp_to(running.receiver),
            "taken.test": "discard:",
            "gone.test": smtp_to(next_server.address),
            "away.test": smtp_to("127.0.0.1:1"),
        }
        try:
            with own_postfix(transports, door) as postfix:
                running.start("runmail", until="Ctrl-C ends everything.")
                yield running, postfix
        except NoPostfix as error:
            pytest.skip(str(error))


def test_mail_ends_as_postfix_says_in_the_dialogue_and_by_a_bounce(
    site: tuple[Project, Postfix],
) -> None:
    project, postfix = site
    receiver = Endpoint.parse(project.receiver)
    with smtplib.SMTP(receiver.host, receiver.port) as smtp:
        for person in (TAKEN, UNKNOWN, LATER, GONE, PUT_OFF_LATER):
            smtp.sendmail(person, [ADDRESS], b"Subject: Hello\r\n\r\nHello.\r\n")

    wait_until(lambda: _statuses(project) == {
        TAKEN: "done",
        UNKNOWN: "failed",
        LATER: "deferred",
        GONE: "failed",
        PUT_OFF_LATER: "done",
    })  # fmt: skip
    assert _answer(project, TAKEN).reply.startswith("250 2.0.0 Ok: queued as ")
    assert _answer(project, UNKNOWN).reply == (
        f"550 5.1.1 <{UNKNOWN}>: Recipient address rejected: Who is that?"
    )
    assert _answer(project, LATER).reply == (
        f"450 4.2.0 <{LATER}>: Recipient address rejected: Greylisted"
    )
    assert "Nobody of that name" in _answer(project, GONE).reply
    wait_until(lambda: postfix.outcomes(PUT_OFF_LATER) == ["deferred"])
    assert postfix.outcomes(TAKEN) == ["sent"]
    assert postfix.outcomes(GONE) == ["bounced"]
    assert "TLS connection established from localhost" in postfix.log


def _answer(project: Project, person: str) -> Delivery:
    from mailapp.models import Delivery

    return project.query(Delivery).get(queue="outgoing", recipient=person)


def _statuses(project: Project) -> dict[str, str]:
    from mailapp.models import Delivery

    rows = project.query(Delivery).filter(queue="outgoing")
    return dict(rows.values_list("recipient", "status"))
