"""The default storage for large messages: a file is whole and on disk before its name is known."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from django.core.files import File
from django.core.files.storage import FileSystemStorage
from django.utils.deconstruct import deconstructible


@deconstructible
class DurableFileSystemStorage(FileSystemStorage):
    """Writes to a temporary name, syncs, renames, and syncs the folder."""

    def _save(self, name: str, content: File) -> str:
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in content.chunks():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            name = self._reserve(name)
            path = Path(self.path(name))
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
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


def _sync_folders(folder: Path, top: Path) -> None:
    for place in [folder, *folder.parents]:
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if place == top:
            break
