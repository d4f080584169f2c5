"""Make a key for DKIM, and say what to publish and what to set."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from textwrap import wrap
from typing import Any

from django.core.management.base import CommandError

from mailapp import conf, signing
from mailapp.conf import mail_settings
from mailapp.errors import KeyUnusable
from mailapp.management.command import MailCommand
from mailapp.mime import visible

_LONGEST_STRING = 255  # octets of one string in a TXT record (RFC 1035 3.3)


class Command(MailCommand):
    help = """
    Make a key that mail of a domain is signed with, which only its owner can read, and print the
    DNS record of its public half. Where the file is there already, print the record of its key.

    Example: manage.py makedkim example.com 2026
    """
    requires_system_checks = ()  # which fail as long as a key is named that is not made yet

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("domain", help="the domain of the authors, as in their From:")
        parser.add_argument("selector", help="a name for this key among the keys of the domain")
        parser.add_argument("--ed25519", action="store_true", help="not RSA of 2048 bits")
        parser.add_argument("--file", help="default: RUN_DIR/dkim/SELECTOR.DOMAIN.pem")

    def handle(
        self, *args: Any, domain: str, selector: str, ed25519: bool, file: str, **options: Any
    ) -> None:
        path = Path(file or f"{mail_settings().RUN_DIR}/dkim/{selector}.{domain}.pem")
        setting = {domain: {selector: str(path)}}
        if faults := conf.problems({"DKIM": setting}):
            raise CommandError(faults[0])
        try:
            made = _make(path, ed25519=ed25519)
            record = _record(str(path))
        except ImportError as error:
            raise CommandError('It needs the extra: pip install "lamson-django[dkim]"') from error
        except (OSError, KeyUnusable) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"{'Made' if made else 'Kept'} {visible(str(path))}\n\nPublish:\n")
        self.stdout.write(f"{selector}._domainkey.{domain}. TXT {record}\n\nThen set:\n")
        self.stdout.write(f'MAIL["DKIM"] = {setting}')


def _make(path: Path, *, ed25519: bool) -> bool:
    from mailapp.dkim import new_key

    pem = new_key(ed25519=ed25519)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        return True
    return False


def _record(path: str) -> str:
    """The value of the TXT record, in strings as a zone file wants them."""
    from mailapp.dkim import record

    strings = wrap(record(signing.key(path)), _LONGEST_STRING, drop_whitespace=False)
    return " ".join(f'"{string}"' for string in strings)
