"""What a worker has in hand, in memory that it shares with its supervisor.

The supervisor so sees who is stuck, even in C code, where nothing of the worker can tell it.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Sequence
from time import monotonic
from typing import Self

from mailapp.conf import mail_settings

_NOW = struct.Struct("=dQ")  # since when (0: never), and at which delivery (0: at none)
_COUNT = struct.Struct("=I")
_ID = struct.Struct("=Q")
_IDS = _NOW.size + _COUNT.size


class InHand:
    """The batch of a worker, the delivery of it that a handler has, and since when."""

    def __init__(self, fd: int) -> None:
        """Share what the supervisor made, by its descriptor."""
        self._memory = mmap.mmap(fd, 0)

    @classmethod
    def shared(cls) -> tuple[Self, int]:
        """Make such memory; return it with a descriptor, which the caller closes."""
        fd = _new_memory()
        os.ftruncate(fd, _IDS + _ID.size * mail_settings().BATCH_SIZE)
        return cls(fd), fd

    # The worker's side

    def take(self, batch: Sequence[int]) -> None:
        """Note a batch of deliveries, in the order in which they will be worked.

        Of one that is larger than the supervisor's `BATCH_SIZE`, which may be older than ours, only
        the beginning.
        """
        batch = batch[: (len(self._memory) - _IDS) // _ID.size]
        _COUNT.pack_into(self._memory, _NOW.size, len(batch))
        self._memory[_IDS : _IDS + _ID.size * len(batch)] = struct.pack(f"={len(batch)}Q", *batch)

    def begin(self, delivery: int) -> None:
        """Note that a handler has this delivery from now on; 0: a timer's function runs."""
        _NOW.pack_into(self._memory, 0, monotonic(), delivery)

    def end(self) -> None:
        """Note that no handler runs."""
        _NOW.pack_into(self._memory, 0, 0, 0)

    # The supervisor's side

    @property
    def since(self) -> float:
        """When the handler that runs was begun (monotonic); 0 if none runs."""
        since, _ = _NOW.unpack_from(self._memory)
        return since

    @property
    def seconds(self) -> float:
        """For how long the handler that runs has done so; 0 if none runs."""
        since = self.since
        return monotonic() - since if since else 0

    @property
    def behind(self) -> list[int]:
        """The deliveries of the batch that wait until the handler is done with its own."""
        _, delivery = _NOW.unpack_from(self._memory)
        [count] = _COUNT.unpack_from(self._memory, _NOW.size)
        batch = struct.unpack_from(f"={count}Q", self._memory, _IDS)
        return list(batch[batch.index(delivery) + 1 :]) if delivery in batch else []


def _new_memory() -> int:
    """Return a descriptor of memory, where the system has such, or else of a file."""
    if hasattr(os, "memfd_create"):  # a full disk would kill who writes to a file that it maps
        return os.memfd_create("in-hand")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
