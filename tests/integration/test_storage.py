"""The default storage for large messages."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from django.core.files.base import ContentFile, File

from mailapp.models import Message, NewMail
from mailapp.storage import DurableFileSystemStorage, open_spool


@pytest.fixture
def storage(tmp_path):
    return DurableFileSystemStorage(location=tmp_path / "large")


def files(storage: DurableFileSystemStorage) -> set[Path]:
    return {path for path in Path(storage.location).rglob("*") if path.is_file()}


def test_file_is_kept_below_the_location(storage):
    name = storage.save("2026/01/02/mail.eml", ContentFile(b"bytes"))

    assert name == "2026/01/02/mail.eml"
    assert Path(storage.path(name)).read_bytes() == b"bytes"
    assert files(storage) == {Path(storage.path(name))}
    assert stat.S_IMODE(Path(storage.path(name)).stat().st_mode) == 0o600


def test_two_who_save_under_one_name_at_once_lose_nothing(storage, together):
    names = together(
        *(
            lambda number=number: storage.save("mail.eml", ContentFile(str(number).encode()))
            for number in range(20)
        )
    )

    assert len(set(names)) == 20
    assert [int(Path(storage.path(name)).read_bytes()) for name in names] == list(range(20))
    assert len(files(storage)) == 20


def _spooled(folder: Path, content: bytes) -> File:
    spool = open_spool(str(folder))
    spool.write(content)
    return File(spool)


def test_spool_is_given_a_name_and_not_copied(storage, tmp_path):
    spool = _spooled(tmp_path, b"bytes")
    before = os.fstat(spool.fileno()).st_ino

    name = storage.save("mail.eml", spool)
    spool.close()

    assert Path(storage.path(name)).read_bytes() == b"bytes"
    assert Path(storage.path(name)).stat().st_ino == before
    assert stat.S_IMODE(Path(storage.path(name)).stat().st_mode) == 0o600
    assert files(storage) == {Path(storage.path(name))}


def test_spool_that_is_not_kept_leaves_nothing(tmp_path):
    _spooled(tmp_path, b"bytes").close()

    assert list(tmp_path.iterdir()) == []


def test_spool_on_another_file_system_is_copied(storage):
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == _device(storage):
        pytest.skip("needs two file systems")

    with _spooled(shm, b"bytes") as spool:
        name = storage.save("mail.eml", spool)

    assert Path(storage.path(name)).read_bytes() == b"bytes"
    assert files(storage) == {Path(storage.path(name))}


def _device(storage: DurableFileSystemStorage) -> int:
    return Path(storage.location).parent.stat().st_dev


def test_file_that_has_a_name_is_copied(storage, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"bytes")

    with source.open("rb") as file:
        name = storage.save("mail.eml", File(file))

    assert Path(storage.path(name)).read_bytes() == b"bytes"
    assert source.stat().st_nlink == 1


class Broken(ContentFile):
    """A file that ends in the middle."""

    def chunks(self, chunk_size=None):
        yield b"first half"
        raise OSError("no second half")


def test_file_that_ends_in_the_middle_leaves_nothing(storage):
    with pytest.raises(OSError, match="no second half"):
        storage.save("mail.eml", Broken(b""))

    assert files(storage) == set()


def test_file_and_each_folder_above_it_are_synced_before_its_name_is_known(storage, monkeypatch):
    synced = []
    sync = os.fsync

    def remember(handle: int) -> None:
        synced.append(Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    monkeypatch.setattr(os, "fsync", remember)

    name = storage.save("2026/01/mail.eml", ContentFile(b"bytes"))

    top = Path(storage.location)
    assert synced[0].parent == Path(storage.path(name)).parent
    assert synced[1:] == [top / "2026/01", top / "2026", top]


@pytest.mark.django_db
def test_large_message_is_in_the_storage_and_not_in_the_row(settings):
    settings.MAIL = {**settings.MAIL, "INLINE_SIZE": 100}
    raw = b"Subject: Large\r\n\r\n" + b"x" * 100

    [key] = Message.objects.store(
        [NewMail(raw=raw, sender="a@client.test", recipients=["news@localhost"])]
    )

    stored = Message.objects.get(pk=key)
    assert stored.raw_message.content is None
    assert stored.raw == raw
