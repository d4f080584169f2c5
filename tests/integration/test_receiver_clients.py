"""Programs that others wrote deliver to the receiver."""

from __future__ import annotations

import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mailapp.receiver.lmtp import LmtpDialogue
from mailapp.receiver.tls import server_context
from tests.integration.conftest import Certificate
from tests.integration.receiving import Shelf, receiving
from tests.waiting import DEADLINE

Run = Callable[..., str]

HEAD = b"From: reader@client.test\r\nSubject: Hello\r\n\r\n"
LINE = b"..A line that begins with dots and has \xe9 and a tab\t in it.\r\n"
LARGE = HEAD + LINE * (5_000_000 // len(LINE) + 1)
SWAKS = ["--ehlo", "client.test", "--from", "reader@client.test"]


@pytest.fixture
def run() -> Run:
    """Run a program and return what it printed; skip where there is none."""

    def run(program: str, *arguments: str) -> str:
        path = shutil.which(program) or shutil.which(program, path="/usr/sbin")
        if path is None:
            pytest.skip(f"there is no {program}")
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=DEADLINE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("options", [["-d"], []], ids=["kept sessions", "a session for each mail"])
def test_smtp_source(run: Run, options: list[str]) -> None:
    shelf = Shelf()
    with receiving(shelf) as receiver:
        run("smtp-source", "-s", "10", "-m", "100", "-l", "4000", *options,
            "-t", "you@example.com", f"127.0.0.1:{receiver.port}")  # fmt: skip

    assert len(shelf.mails) == 100


def test_smtp_source_with_large_mails_at_once(run: Run) -> None:
    shelf = Shelf()
    with receiving(shelf) as receiver:
        run("smtp-source", "-s", "4", "-m", "4", "-l", "5000000", "-t", "you@example.com",
            f"127.0.0.1:{receiver.port}")  # fmt: skip

    assert len(shelf.mails) == 4
    [body] = {mail.raw.partition(b"\r\n\r\n")[2] for mail in shelf.mails}
    assert len(body.removesuffix(b"\r\n")) == 5_000_000


def test_smtp_source_by_lmtp(run: Run) -> None:
    shelf = Shelf()
    with receiving(shelf, kind=LmtpDialogue) as receiver:
        run("smtp-source", "-L", "-m", "10", "-r", "3", "-t", "you@example.com",
            f"127.0.0.1:{receiver.port}")  # fmt: skip

    assert len(shelf.mails) == 10
    assert len(shelf.mails[0].recipients) == 3


@pytest.mark.parametrize("options", [[], ["--pipeline"]], ids=["plain", "pipelined"])
def test_swaks(run: Run, options: list[str]) -> None:
    shelf = Shelf()
    with receiving(shelf) as receiver:
        run("swaks", "--server", "127.0.0.1", "--port", str(receiver.port), *SWAKS,
            "--to", "you@example.com,they@example.net", *options)  # fmt: skip

    assert shelf.mails[0].recipients == ["you@example.com", "they@example.net"]


@pytest.mark.parametrize("option", ["--tls", "--tls-on-connect"])
def test_swaks_under_tls(run: Run, certificate: Certificate, option: str) -> None:
    if "TLS supported" not in run("swaks", "--support"):
        pytest.skip("this swaks does not speak TLS")
    shelf = Shelf()
    with receiving(
        shelf,
        tls=server_context(certificate.chain, ""),
        tls_at_once=option == "--tls-on-connect",
    ) as receiver:
        run("swaks", "--server", "127.0.0.1", "--port", str(receiver.port), *SWAKS,
            "--to", "you@example.com", option, "--tls-verify",
            "--tls-ca-path", certificate.authority)  # fmt: skip

    [mail] = shelf.mails
    assert mail.protocol == "ESMTPS"
    assert mail.tls.startswith("TLSv1.")


def test_swaks_by_lmtp_on_a_unix_socket(run: Run) -> None:
    shelf = Shelf()
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/lmtp"
        with receiving(shelf, kind=LmtpDialogue, place=place):
            run("swaks", "--socket", place, "--protocol", "LMTP", *SWAKS,
                "--to", "you@example.com,they@example.net")  # fmt: skip

    [mail] = shelf.mails
    assert mail.recipients == ["you@example.com", "they@example.net"]
    assert mail.protocol == "LMTP"


def test_swaks_with_a_large_mail(run: Run, tmp_path: Path) -> None:
    content = tmp_path / "mail.eml"
    content.write_bytes(LARGE)
    shelf = Shelf()
    with receiving(shelf) as receiver:
        run("swaks", "--server", "127.0.0.1", "--port", str(receiver.port), *SWAKS,
            "--to", "you@example.com", "--data", f"@{content}", "--suppress-data")  # fmt: skip

    [mail] = shelf.mails
    assert mail.raw.rstrip(b"\r\n") == LARGE.rstrip(b"\r\n")  # it adds an empty line


@pytest.mark.parametrize("content", [HEAD + LINE, LARGE], ids=["small", "large"])
def test_smtplib(content: bytes) -> None:
    shelf = Shelf()
    with (
        receiving(shelf) as receiver,
        smtplib.SMTP("127.0.0.1", receiver.port, timeout=DEADLINE) as smtp,
    ):
        refused = smtp.sendmail(
            "reader@client.test",
            ["you@example.com", "nobody@example.com", "they@example.net"],
            content,
            ["BODY=8BITMIME"],
        )

    assert refused == {"nobody@example.com": (550, b"5.1.1 No such recipient here")}
    [mail] = shelf.mails
    assert mail.raw == content
    assert mail.recipients == ["you@example.com", "they@example.net"]
