"""Handlers that are changed while the server runs, in development."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailapp.models import Delivery
from tests.acceptance.test_runmail import READY, accepts, alive, send
from tests.project import Project
from tests.waiting import wait_until

SETTINGS = """
from lamson_project.settings import *

INSTALLED_APPS = ["shop", *INSTALLED_APPS]
INSTALLED_APPS.remove("examples.mailinglist")  # which would take all mail
"""
HANDLER = """
from mailapp.routing import route

@route("order@(host)")
def START(message, host):
    message.note = "{note}"
"""


@pytest.fixture
def handlers(tmp_path: Path) -> Path:
    """The folder of the handlers of an app of one's own."""
    (tmp_path / "shop_settings.py").write_text(SETTINGS)
    folder = tmp_path / "shop" / "handlers"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "order.py").write_text(HANDLER.format(note="first"))
    return folder


def note(project: Project, recipient: str = "order@localhost") -> str:
    """Send a mail; return what its handler notes."""
    wait_until(lambda: accepts(project.receiver))
    send(project, recipient)
    last = wait_until(
        lambda: project.query(Delivery).filter(recipient=recipient, status="done").first()
    )
    project.query(Delivery).all().delete()
    return last.reply


@pytest.mark.any_database
def test_changed_code_is_loaded_between_mails_and_broken_code_is_not(project, handlers):
    installation = project(
        DJANGO_SETTINGS_MODULE="shop_settings",
        PYTHONPATH=str(handlers.parent.parent),
        MAIL_RELOAD="1",
        WEB="",
    )
    program = installation.start("runmail", until=READY)
    assert note(installation) == "first"

    def change(name: str, text: str) -> None:
        """Write a file, and return once both who run handlers are new."""
        before = alive(installation)
        (handlers / name).write_text(text)
        for part in ("worker", "receiver"):
            wait_until(lambda part=part: alive(installation).get(part, 0) > before[part])
        assert alive(installation)["relay"] == before["relay"]

    change("order.py", HANDLER.format(note="second"))
    assert note(installation) == "second"

    (handlers / "order.py").write_text("def START(:")
    wait_until(lambda: "order.py changed, but the old code goes on" in program.output)
    assert "SyntaxError: " in program.output
    assert note(installation) == "second"

    change("order.py", HANDLER.format(note="third"))
    assert note(installation) == "third"

    change("asking.py", HANDLER.format(note="new").replace("order@", "ask@"))
    assert note(installation, "ask@localhost") == "new"
    assert "starts again in" not in program.output
