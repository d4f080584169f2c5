r"""Reads and writes the files and folders that mail programs keep mail in. No database.

mbox, Babyl and MH by the standard library. A line in them ends in LF, and in a mail that was sent
in CRLF: the one becomes the other, unless a mail has line ends of both kinds, which stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import mailbox
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

from mailapp import charsets
from mailapp.errors import MailError
from mailapp.maildir import Maildir, file_name, open_plain
from mailapp.storage import sync_folder


class NotAMailbox(MailError):
    """No mail can be read there."""


class Unfit(MailError):
    """This mail cannot be written."""


class Found(NamedTuple):
    """A mail in a mailbox."""

    name: str  #: what tells people which it is
    content: bytes
    sender: str = ""  #: whom the mailbox itself names, as an mbox does


class Broken(NamedTuple):
    """A mail that cannot be read, and why."""

    name: str
    reason: str


def as_received(content: bytes) -> bytes:
    r"""Return the bytes of a mail that was in a mailbox as it is kept here.

    >>> as_received(b"one\ntwo\n"), as_received(b"one\rtwo\n")
    (b'one\r\ntwo\r\n', b'one\rtwo\n')
    """
    return content if b"\r" in content else content.replace(b"\n", b"\r\n")


def as_filed(raw: bytes) -> bytes:
    r"""Return the bytes of a mail as they go into a mailbox; `as_received` gives them back.

    >>> as_filed(b"one\r\ntwo\r\n"), as_filed(b"one\r\ntwo\n")
    (b'one\ntwo\n', b'one\r\ntwo\n')
    """
    alike = raw.count(b"\r\n") == raw.count(b"\r") == raw.count(b"\n")
    return raw.replace(b"\r\n", b"\n") if alike else raw


# Reading.


class Mailbox:
    """A mailbox that is read: `len` is how many mails it has, `mails` are they, in order."""

    def __len__(self) -> int:
        raise NotImplementedError

    def mails(self) -> Iterator[Found | Broken]:
        """Yield each mail, or what is known of one that cannot be read."""
        raise NotImplementedError

    def close(self) -> None:
        """Let its file go."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Files(Mailbox):
    """A file for each mail."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def mails(self) -> Iterator[Found | Broken]:
        for path in self._paths:
            yield _read(path)


class _Maildir(Mailbox):
    def __init__(self, path: Path) -> None:
        self._maildir = Maildir(path)
        self._keys = self._maildir.in_order()

    def __len__(self) -> int:
        return len(self._keys)

    def mails(self) -> Iterator[Found | Broken]:
        for key in self._keys:
            try:
                yield _read(self._maildir.path_of(key))
            except KeyError:
                yield Broken(key, "it is gone")


class _Single(Mailbox):
    """A file with all mails, one after the other."""

    def __init__(self, path: Path, box: mailbox.mbox | mailbox.Babyl) -> None:
        self._path = path
        self._box = box
        self._keys = box.keys()

    def __len__(self) -> int:
        return len(self._keys)

    def mails(self) -> Iterator[Found | Broken]:
        for number, key in enumerate(self._keys, start=1):
            name = f"{self._path}, mail {number}"
            try:
                yield self._found(name, key)
            except (OSError, AssertionError) as error:  # AssertionError: a Babyl that ends early
                yield Broken(name, _reason(error))

    def _found(self, name: str, key: str) -> Found:
        return Found(name, as_received(self._box.get_bytes(key)))

    def close(self) -> None:
        self._box.close()


_FROM = re.compile(rb">?From[ \t]+(\S+)[^\n]*?(\r?)\n")


class _Mbox(_Single):
    def _found(self, name: str, key: str) -> Found:
        written = self._box.get_bytes(key, from_=True)  # type: ignore[call-arg]
        line = _FROM.match(written)
        if line is None:
            return super()._found(name, key)
        content = written[line.end() :]
        if line[2]:  # with CRLF, the empty line between two mails is read as if it were the first's
            content = content.removesuffix(b"\r\n")
        return Found(name, as_received(content), charsets.to_text(line[1], None))


def _read(path: Path) -> Found | Broken:
    try:
        with open_plain(path.resolve()) as file:
            return Found(str(path), as_received(file.read()))
    except OSError as error:
        return Broken(str(path), _reason(error))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", "") or str(error) or "it is cut off"


def open_mailbox(path: Path) -> Mailbox:
    """Open what is there: a Maildir, MH folder or folder of .eml files; an mbox, Babyl or mail.

    Raise NotAMailbox.
    """
    try:
        if path.is_dir():
            return _open_folder(path)
        if not path.is_file():
            raise NotAMailbox(f"{path} is no file" if path.exists() else f"{path} is not there")
        return _open_file(path)
    except (OSError, ValueError, mailbox.Error) as error:
        raise NotAMailbox(f"{path}: {_reason(error)}") from error


def _open_folder(path: Path) -> Mailbox:
    has = [name for name in ("new", "cur") if (path / name).is_dir()]
    if has == ["new", "cur"]:
        return _Maildir(path)
    if has:
        raise NotAMailbox(
            f"{path} is no Maildir: it has a folder {has[0]}, and not both new and cur"
        )
    numbered = [each for each in path.iterdir() if each.name.isdecimal()]
    if numbered or (path / ".mh_sequences").exists():
        return _Files(sorted(numbered, key=lambda each: int(each.name)))
    if letters := sorted(path.glob("*.eml")):
        return _Files(letters)
    raise NotAMailbox(f"{path} is no Maildir, MH folder or folder of .eml files")


_FIELD = re.compile(rb"\s*[!-9;-~]+[ \t]*:")


def _open_file(path: Path) -> Mailbox:
    with path.open("rb") as file:
        beginning = file.read(1000)
    if beginning.startswith(b"From ") or not beginning:
        return _Mbox(path, mailbox.mbox(path, create=False))
    if beginning.startswith(b"BABYL OPTIONS"):
        return _Single(path, mailbox.Babyl(path, create=False))
    if _FIELD.match(beginning):
        return _Files([path])
    raise NotAMailbox(f"{path} is no mbox, Babyl file or mail")


# Writing.


class NewMailbox:
    """A mailbox that is written."""

    def __init__(self, path: Path) -> None:
        raise NotImplementedError

    def add(self, raw: bytes, sender: str, date: datetime) -> None:
        """Write a mail, as the next one. Raise Unfit."""
        raise NotImplementedError

    def close(self) -> None:
        """Have all of it on disk."""


class _NewFiles(NewMailbox):
    """A file for each mail."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self._count = 0

    def add(self, raw: bytes, sender: str, date: datetime) -> None:
        self._count += 1
        path = self.path / self.name(self._count, date)
        path.write_bytes(as_filed(raw))
        os.utime(path, (date.timestamp(), date.timestamp()))

    def name(self, number: int, date: datetime) -> str:
        raise NotImplementedError

    def close(self) -> None:
        os.sync()  # for each file by itself it takes fifty times as long


class _NewMaildir(_NewFiles):
    def __init__(self, path: Path) -> None:
        Maildir(path, create=True)
        self.path = path / "new"
        self._count = 0

    def name(self, number: int, date: datetime) -> str:
        return file_name(int(date.timestamp()), date.microsecond, f"N{number:08}")


class _NewMh(_NewFiles):
    def name(self, number: int, date: datetime) -> str:
        return str(number)

    def close(self) -> None:
        (self.path / ".mh_sequences").touch()
        super().close()


class _NewLetters(_NewFiles):
    def name(self, number: int, date: datetime) -> str:
        return f"{number:08}.eml"


class _NewMbox(NewMailbox):
    def __init__(self, path: Path) -> None:
        self._box = mailbox.mbox(path)

    def add(self, raw: bytes, sender: str, date: datetime) -> None:
        content = as_filed(raw)
        quoted = b">" + content if content.startswith(b"From ") else content
        who = re.sub(r"\s+", "-", sender) or "MAILER-DAEMON"
        line = f"From {who} {time.asctime(date.utctimetuple())}\n"
        self._box.add(line.encode() + quoted)

    def close(self) -> None:
        self._box.close()


class _NewBabyl(NewMailbox):
    def __init__(self, path: Path) -> None:
        self._box = mailbox.Babyl(path)

    def add(self, raw: bytes, sender: str, date: datetime) -> None:
        content = as_filed(raw)
        if content.startswith(b"\n"):
            raise Unfit("it has no header, which Babyl wants")
        if re.search(rb"^(?:\x1f|\*\*\* EOOH \*\*\*$)", content, re.MULTILINE):
            raise Unfit("a line of it means the end of a mail in Babyl")
        self._box.add(content)

    def close(self) -> None:
        self._box.close()


NEW_MAILBOXES: dict[str, type[NewMailbox]] = {
    "maildir": _NewMaildir,
    "mbox": _NewMbox,
    "mh": _NewMh,
    "babyl": _NewBabyl,
    "eml": _NewLetters,
}


@contextlib.contextmanager
def new_mailbox(path: Path, format: str) -> Iterator[NewMailbox]:
    """Write a mailbox that is there once it is whole, and not before.

    Raise FileExistsError if something is there, FileNotFoundError if there is no folder for it.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "there is something already", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "the folder that it is to be in is not there", str(path)
        )
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        made = NEW_MAILBOXES[format](part)
        with contextlib.closing(made):
            yield made
        part.rename(path)
        sync_folder(path.parent)
    except BaseException:
        _remove(part)
        raise


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
