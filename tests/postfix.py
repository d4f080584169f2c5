"""A Postfix for the tests: an instance of its own in a folder, beside that of the system."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.waiting import DEADLINE, wait_until

HOSTNAME = "mx.client.test"

# It tries again when it is told to, and not before the test is over. A bounce brings back the
# head of a mail alone, since what was refused in the body would be refused in the bounce.
_MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = {command_directory}
daemon_directory = {daemon_directory}
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = {hostname}
mydestination =
alias_maps =
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_dns_support_level = disabled
lmtp_dns_support_level = disabled
transport_maps = inline:{{{transports}}}
default_transport = error:no test sends mail there
smtp_line_length_limit = 0
lmtp_line_length_limit = 0
bounce_size_limit = 1
queue_run_delay = 1h
minimal_backoff_time = 1h
maximal_backoff_time = 1h
"""

# What it takes from programs of this machine over SMTP, and what it refuses of that.
_SMTPD = """\
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
    check_recipient_access inline:{{{refusals}}}, permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
local_recipient_maps =
smtpd_tls_security_level = encrypt
smtpd_tls_chain_files = {certificate}
smtpd_tls_loglevel = 1
"""

# Without smtpd mail comes in by its sendmail, so it needs no port.
_MASTER = """\
pickup     unix       n - n 60    1 pickup
cleanup    unix       n - n -     0 cleanup
qmgr       unix       n - n 300   1 qmgr
rewrite    unix       - - n -     - trivial-rewrite
bounce     unix       - - n -     0 bounce
defer      unix       - - n -     0 bounce
trace      unix       - - n -     0 bounce
flush      unix       n - n 1000? 0 flush
smtp       unix       - - n -     - smtp
lmtp       unix       - - n -     - lmtp
error      unix       - - n -     - error
discard    unix       - - n -     - discard
tlsmgr     unix       - - n 1000? 1 tlsmgr
retry      unix       - - n -     - error
scache     unix       - - n -     1 scache
postlog    unix-dgram n - n -     1 postlogd
"""


def smtp_to(place: str) -> str:
    """Write `host:port` as a transport, without a look for an MX."""
    host, _, port = place.rpartition(":")
    return f"smtp:[{host}]:{port}"


class NoPostfix(Exception):
    """There is no Postfix to test with."""


class Door(NamedTuple):
    """Where it takes mail over SMTP, after STARTTLS, and what it refuses."""

    place: str  #: host:port
    certificate: str  #: PEM file with its key
    refusals: Mapping[str, str]  #: replies, by recipient


@contextlib.contextmanager
def own_postfix(transports: Mapping[str, str], door: Door | None = None) -> Iterator[Postfix]:
    """Start an instance that sends mail for each domain by its transport, and no other mail.

    Without a door it takes only what is given to `send`. Raise NoPostfix when there is none to
    start.
    """
    installed = _installed()
    with tempfile.TemporaryDirectory(prefix="mail-postfix-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # most of Postfix does not run as root
        _write_settings(folder, installed, transports, door)
        postfix = Postfix(folder, installed)
        postfix.start()
        try:
            yield postfix
        finally:
            postfix.stop()


class Postfix:
    """A whole Postfix that runs in a folder."""

    def __init__(self, folder: Path, installed: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = folder / "etc"
        self._commands = Path(installed["command_directory"])
        self._sendmail = installed["sendmail_path"]

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Return when it takes mail."""
        self._run(self._commands / "postfix", "-c", self._settings, "start")

    def stop(self) -> None:
        """Return when nothing of it runs."""
        self._run(self._commands / "postfix", "-c", self._settings, "stop")
        wait_until(lambda: not self._processes())

    def send(self, sender: str, recipients: list[str], content: bytes) -> None:
        """Return when it has taken a mail, given as it is on the wire."""
        lines = content.replace(b"\r\n", b"\n")  # what sendmail reads
        self._run(
            self._sendmail, "-C", self._settings, "-i", "-f", sender, *recipients, input=lines
        )

    def flush(self) -> None:
        """Have it try all again that it has put off."""
        self._run(self._commands / "postqueue", "-c", self._settings, "-f")

    def outcomes(self, recipient: str) -> list[str]:
        """Say how each try ended to deliver to a recipient: sent, bounced or deferred."""
        return re.findall(rf"to=<{re.escape(recipient)}>,.* status=(\w+) \(", self.log)

    def put_off(self) -> int:
        """Count the mails that wait for another try."""
        return sum(path.is_file() for path in (self._folder / "queue" / "deferred").rglob("*"))

    def _run(self, *command: str | Path, input: bytes = b"") -> None:
        with (self._folder / "output").open("w+b") as output:  # no pipe, which a daemon may keep
            done = subprocess.run(
                command, input=input, stdout=output, stderr=output, timeout=DEADLINE, check=False
            )
            output.seek(0)
            said = output.read().decode(errors="replace")
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {said}"

    def _processes(self) -> list[int]:
        mark = f"MAIL_CONFIG={self._settings}".encode()
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
        return found


def _installed() -> dict[str, str]:
    """Return the parameters that Postfix was built with; raise NoPostfix without one to run."""
    postconf = shutil.which("postconf") or shutil.which("postconf", path="/usr/sbin")
    if postconf is None:
        raise NoPostfix("there is no Postfix")
    if os.geteuid() != 0:
        raise NoPostfix("only root can start a Postfix")
    names = ["command_directory", "daemon_directory", "mail_owner", "sendmail_path", "setgid_group"]
    told = subprocess.run([postconf, "-d", *names], capture_output=True, text=True, check=True)
    installed = dict(line.split(" = ", 1) for line in told.stdout.splitlines())
    try:
        pwd.getpwnam(installed["mail_owner"])
        grp.getgrnam(installed["setgid_group"])
    except KeyError as error:
        raise NoPostfix(f"Postfix misses its user or group: {error}") from None
    return installed


def _write_settings(
    folder: Path, installed: Mapping[str, str], transports: Mapping[str, str], door: Door | None
) -> None:
    for name in ("etc", "queue", "data"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", installed["mail_owner"])
    ways = _inline(transports)
    main = _MAIN.format(folder=folder, hostname=HOSTNAME, transports=ways, **installed)
    master = _MASTER
    if door:
        main += _SMTPD.format(refusals=_inline(door.refusals), certificate=door.certificate)
        master += f"{door.place} inet n - n - - smtpd\n"
    for name, text in (("main.cf", main), ("master.cf", master)):
        path = folder / "etc" / name
        path.write_text(text)
        os.utime(path, (0, 0))  # Postfix does not read a file that is less than two seconds old


def _inline(table: Mapping[str, str]) -> str:
    """Write a table as it stands in a parameter."""
    return ", ".join(f"{{{key} = {value}}}" for key, value in table.items())
