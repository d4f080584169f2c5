"""The admin on Django's development server, for `runmail`. Not for the open internet."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import WSGIServer, get_internal_wsgi_application
from django.core.servers.basehttp import run as serve

from mailapp.conf import mail_settings
from mailapp.endpoints import Endpoint
from mailapp.errors import PortTaken


class _Server(WSGIServer):
    """Ends between two requests; a signal within one would close it under its thread."""

    ending = False

    def service_actions(self) -> None:
        """Called after each request, and twice a second."""
        super().service_actions()
        if self.ending:
            raise KeyboardInterrupt


def run(on_ready: Callable[[str], None] = lambda said: None) -> None:
    """Serve until SIGTERM or SIGINT; raise PortTaken when something else listens there."""
    where = Endpoint.parse(mail_settings().WEB)

    def end(*ignored: object) -> None:
        _Server.ending = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            serve(
                where.host,
                where.port,
                StaticFilesHandler(get_internal_wsgi_application()),
                ipv6=":" in where.host,
                threading=True,
                on_bind=lambda port: on_ready(str(where._replace(port=int(port)))),
                server_cls=_Server,
            )
    except OSError as error:
        raise PortTaken(f"{where} (web): {error.strerror}") from error
