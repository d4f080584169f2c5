"""The admin on Django's development server, for `runmail`. Not for the open internet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import get_internal_wsgi_application
from django.core.servers.basehttp import run as serve

from mailapp.conf import Endpoint, mail_settings
from mailapp.errors import PortTaken


def run(on_ready: Callable[[str], None] = lambda said: None) -> None:
    """Serve until SIGTERM or SIGINT; raise PortTaken when something else listens there."""
    where = Endpoint.parse(mail_settings().WEB)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            serve(
                where.host,
                where.port,
                StaticFilesHandler(get_internal_wsgi_application()),
                ipv6=":" in where.host,
                threading=True,
                on_bind=lambda port: on_ready(str(where._replace(port=int(port)))),
            )
    except OSError as error:
        raise PortTaken(f"{where} (web): {error.strerror}") from error
