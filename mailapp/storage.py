"""The default storage for large messages: a file is whole and on disk before its name is known.

What comes in is spooled to a file without a name, which is then given one rather than copied.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from django.core.files import File
from django.core.files.storage import FileSystemStorage
from django.utils.deconstruct import deconstructible


def open_spool(folder: str) -> BinaryIO:
    """Open a file without a name, gone when it is closed unless the storage has kept it.

    Raise OSError when that cannot be.
    """
    with contextlib.suppress(AttributeError, OSError):  # not every system and file system has it
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600), "w+b")
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))


@deconstructible
class DurableFileSystemStorage(FileSystemStorage):
    """Writes to a temporary name, syncs, renames, and syncs the folder."""

    def _save(self, name: str, content: File) -> str:
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            if not _gave_name(content, temporary):
                _copy(content, temporary)
            name = self._reserve(name)
            path = Path(self.path(name))
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folders(path.parent, Path(self.location))
        return name

    def _reserve(self, name: str) -> str:
        """Return a name like `name` that is ours alone, even where others ask for it just now."""
        while True:
            try:
                Path(self.path(name)).touch(mode=0o600, exist_ok=False)
            except FileExistsError:
                name = self.get_available_name(name)
            else:
                return name


def _gave_name(content: File, path: Path) -> bool:
    """Sync a file that has no name and give it one; False if it has one, or cannot have this."""
    try:
        content.flush()
        fd = content.fileno()
        if os.fstat(fd).st_nlink:
            return False
        os.fsync(fd)
    except (AttributeError, io.UnsupportedOperation):  # not a file of the system
        return False
    try:
        # With a folder for the first name, which is not read, Python has the link followed.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
    except OSError:  # on another file system, or made by somebody who forbids it
        return False
    return True


def _copy(content: File, path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for chunk in content.chunks():
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _sync_folders(folder: Path, top: Path) -> None:
    for place in [folder, *folder.parents]:
        sync_folder(place)
        if place == top:
            break


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
