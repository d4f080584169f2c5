"""What the options of `sendtest` ask for: whom to talk to, and the letters to send."""

from __future__ import annotations

import getpass
import mimetypes
import re
import sys
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import localtime, make_msgid
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from mailapp import charsets, mime
from mailapp.conf import mail_settings
from mailapp.dialogue import Letter, Login, Plan, Protocol, Stage
from mailapp.endpoints import Endpoint

_BODY = "This is a test message.\n"


def read_plan(options: dict[str, Any]) -> Plan:
    """Return with whom the session is held; raise CommandError for a wrong option."""
    server = read_server(options["server"] or mail_settings().RECEIVER)
    verify = options["verify"]
    return Plan(
        server=server,
        helo=_one_line("--helo", options["helo"]),
        protocol=Protocol(options["protocol"]),
        tls=options["tls"],
        verify=not _is_this_machine(server) if verify is None else verify,
        login=_login(options),
        quit_after=Stage(options["quit_after"]),
        timeout=options["timeout"],
    )


def read_server(text: str) -> Endpoint | Path:
    """Return what `--server` names; raise CommandError if that is no place."""
    if "/" in text:
        return Path(_one_line("--server", text))
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise CommandError(f"--server: {error}") from error


def _is_this_machine(server: Endpoint | Path) -> bool:
    return isinstance(server, Path) or server.is_here


def _login(options: dict[str, Any]) -> Login | None:
    user = options["auth"]
    if user is None:
        return None
    return Login(
        _one_line("--auth", user),
        _password(user, options["password_file"]),
        options["auth_mechanism"],
    )


def _password(user: str, file: str | None) -> str:
    if file is not None:
        first, _, _ = _read("--password-file", file).partition(b"\n")
        return first.removesuffix(b"\r").decode("utf-8", "surrogateescape")
    if not sys.stdin.isatty():
        raise CommandError("--auth needs --password-file or a terminal")
    return getpass.getpass(f"Password of {user}: ")


def _read(option: str, name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as error:
        raise CommandError(f"{option} {name}: {getattr(error, 'strerror', error)}") from error


def _one_line(option: str, text: str) -> str:
    """Return `text`; raise CommandError if it could end its line on the wire or is no UTF-8."""
    if re.search(r"[\r\n\0]", text):
        raise CommandError(f"{option} holds a line break or NUL: {text!r}")
    if re.search(r"[\ud800-\udfff]", text):
        raise CommandError(f"{option} is not UTF-8: {text!r}")
    return text


def _address(option: str, text: str) -> str:
    """Return an envelope address without its brackets; any other oddity is the tester's wish."""
    address = _one_line(option, text.strip())
    return address[1:-1] if address.startswith("<") and address.endswith(">") else address


_COMMA_LIST = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')


def _recipients(texts: Sequence[str], stage: Stage) -> list[str]:
    addresses = [_address("--to", item) for text in texts for item in _COMMA_LIST.findall(text)]
    recipients = [address for address in addresses if address]
    if not recipients and list(Stage).index(stage) >= list(Stage).index(Stage.RCPT):
        raise CommandError("--to is needed, or a --quit-after before rcpt")
    return recipients


def _header(text: str) -> tuple[str, str]:
    name, colon, value = _one_line("--header", text).partition(":")
    if not colon or not re.fullmatch(r"[!-9;-~]+", name):  # RFC 5322 2.2
        raise CommandError(f"--header {text!r} is not 'Name: value'")
    return name, value.strip()


class LetterWriter:
    """Writes the letters that the options ask for; reads each file once."""

    def __init__(self, options: dict[str, Any]) -> None:
        sender = options["sender"]
        self._postmaster = f"postmaster@{mail_settings().hostname}"
        self._sender = self._postmaster if sender is None else _address("--from", sender)
        self._recipients = _recipients(options["to"], Stage(options["quit_after"]))
        self._subject = _one_line("--subject", options["subject"])
        self._headers = [_header(text) for text in options["header"]]
        self._body = _body(options["body"])
        self._attachments = [(Path(name), _read("--attach", name)) for name in options["attach"]]
        self._raw = None
        if options["raw"] is not None:
            if options["body"] is not None or options["header"] or options["attach"]:
                raise CommandError("--raw goes with none of --body, --header and --attach")
            self._raw = _read("--raw", options["raw"])

    def write(self, number: int) -> Letter:
        """Compose letter `number`."""
        sender = _numbered(self._sender, number)
        recipients = [_numbered(recipient, number) for recipient in self._recipients]
        if self._raw is not None:
            return Letter(sender=sender, recipients=recipients, content=self._raw)
        try:
            content = self._message(sender, recipients, number)
        except ValueError as error:
            raise CommandError(str(error)) from error
        return Letter(sender=sender, recipients=recipients, content=content)

    def _message(self, sender: str, recipients: Sequence[str], number: int) -> bytes:
        plain = "".join([sender, *recipients]).isascii()
        message = EmailMessage((SMTP if plain else SMTPUTF8).clone(cte_type="7bit"))
        message["Date"] = localtime()
        message["From"] = sender or self._postmaster
        message["To"] = ", ".join(recipients)
        message["Subject"] = _numbered(self._subject, number)
        message["Message-ID"] = make_msgid(domain=mail_settings().hostname)
        message.set_content(self._body)
        for path, content in self._attachments:
            name = mime.visible(path.name)
            maintype, subtype = _media_type(path)
            message.add_attachment(content, maintype=maintype, subtype=subtype, filename=name)
        for name, _ in self._headers:
            del message[name]
        for name, value in self._headers:
            message[name] = value
        return message.as_bytes()


def _body(text: str | None) -> str:
    if text is None:
        return _BODY
    if text == "-":
        return charsets.to_text(_read("--body", "-"), None)
    if text.startswith("@"):
        return charsets.to_text(_read("--body", text[1:]), None)
    return text


def _media_type(path: Path) -> tuple[str, str]:
    guess, encoding = mimetypes.guess_type(path.name)
    maintype, _, subtype = (guess or "").partition("/")
    if encoding or maintype not in {"text", "image", "audio", "video", "application"}:
        return "application", "octet-stream"
    return maintype, subtype


def _numbered(text: str, number: int) -> str:
    return text.replace("{n}", str(number))
