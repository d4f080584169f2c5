"""Another Django email backend as the way out, with mail as the EmailMessage that it expects."""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Sequence
from typing import Any, Self

from django.conf import settings
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.backends.smtp import EmailBackend as SMTPBackend
from django.utils.module_loading import import_string

from mailapp import mime
from mailapp.addresses import fold
from mailapp.endpoints import Backend
from mailapp.errors import NoUpstream

from . import wire
from .connection import ConnectionBroken
from .letter import Letter
from .wire import Reply

logger = logging.getLogger(__name__)

# What an HTTP API answers when it is not this mail that it minds.
_TROUBLE = {401, 403, 407, 408, 429, *range(500, 600)}


def backend_class(backend: Backend) -> type[BaseEmailBackend]:
    """Return its class; raise ImportError, or LookupError for an alias that MAILERS lacks."""
    if not backend.is_alias:
        found: type[BaseEmailBackend] = import_string(backend.name)
        return found
    mailers = getattr(settings, "MAILERS", {})
    if backend.name not in mailers:
        raise LookupError(f"MAILERS has no {backend.name!r}")
    path = mailers[backend.name].get("BACKEND", f"{SMTPBackend.__module__}.EmailBackend")
    return import_string(path)


def _made(backend: Backend) -> BaseEmailBackend:
    if not backend.is_alias:
        return backend_class(backend)()
    from django.core.mail import mailers  # of Django 6.1

    made: BaseEmailBackend = mailers[backend.name]
    return made


class BackendConnection:
    """A backend that is open. After ConnectionBroken it is good for nothing."""

    def __init__(self, name: str, backend: BaseEmailBackend) -> None:
        self._name = name
        self._backend = backend

    @classmethod
    def open(cls, upstream: Backend) -> Self:
        """Raise NoUpstream when it cannot be made, or opened."""
        try:
            backend = _made(upstream)
            backend.open()
        except Exception as error:
            raise NoUpstream(f"{upstream}: {_why(error)}") from error
        return cls(str(upstream), backend)

    def transact(self, sender: str, recipients: Sequence[str], raw: bytes) -> dict[str, Reply]:
        """Send one EmailMessage, and return the reply for each recipient that it was for.

        That is, all whom its header names, or one whom it does not. Raise ConnectionBroken when
        the backend does not get through, and whatever else it raises.
        """
        malformed = wire.malformed(sender, recipients)
        sound = [recipient for recipient in recipients if recipient not in malformed]
        if not sound:
            return malformed
        # Django's SMTP backend is silent about those who were refused while others were not.
        letter = Letter(raw)
        some = sound[:1] if isinstance(self._backend, SMTPBackend) else letter.together(sound)
        return malformed | self._send(letter.to(sender, some), some)

    def _send(self, mail: Any, recipients: Sequence[str]) -> dict[str, Reply]:
        try:
            sent = self._backend.send_messages([mail])
        except smtplib.SMTPRecipientsRefused as refused:
            return dict.fromkeys(recipients, self._reply(*next(iter(refused.recipients.values()))))
        except smtplib.SMTPResponseException as refused:
            return dict.fromkeys(recipients, self._reply(refused.smtp_code, refused.smtp_error))
        except Exception as error:
            if isinstance(error, OSError) and getattr(error, "status_code", 500) in _TROUBLE:
                raise self._broken(_why(error)) from error
            if not _statuses(mail):
                raise
            sent = None  # it says of each recipient why not
        if sent == 0:
            return dict.fromkeys(recipients, Reply(451, f"4.3.0 {self._name} sent nothing"))
        statuses = _statuses(mail)
        return {each: _reply_to(statuses.get(fold(each), ""), self._name) for each in recipients}

    def _reply(self, code: int, text: bytes | str) -> Reply:
        reply = Reply.of(code, text.encode() if isinstance(text, str) else text)
        if code == wire.CLOSING or not 400 <= code <= 599:
            raise self._broken(f"it answered {reply}")
        return reply

    def _broken(self, detail: str) -> ConnectionBroken:
        self.abandon()
        return ConnectionBroken(f"{self._name}: {detail}", content_sent=True)  # who knows

    def is_fit(self) -> bool:
        """Say whether another mail can be sent: as long as no one broke it."""
        return True

    def close(self) -> None:
        """Close the backend, in whatever way it does that."""
        self.abandon()

    def abandon(self) -> None:
        """Close the backend; if it cannot, there is nothing that we could do."""
        try:
            self._backend.close()
        except Exception as error:
            logger.info("%s did not close: %s", self._name, _why(error))


def _why(error: Exception) -> str:
    return mime.one_line(f"{type(error).__name__}: {error}")[:1000]


def _statuses(mail: Any) -> dict[str, str]:
    """What became of each recipient, of backends that tell as django-anymail's do."""
    told = getattr(getattr(mail, "anymail_status", None), "recipients", {})
    return {fold(address): str(each.status) for address, each in told.items()}


def _reply_to(status: str, name: str) -> Reply:
    if status in {"invalid", "rejected"}:
        return Reply(550, f"5.0.0 {name} says: {status}")
    if status == "failed":
        return Reply(451, f"4.0.0 {name} says: {status}")
    return Reply(250, f"2.0.0 {name} says: {status}" if status else f"2.0.0 Taken by {name}")
