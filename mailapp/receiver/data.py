"""The content of a mail, from the 354 to its true end. Pure: bytes in, bytes out.

Content ends at CR LF . CR LF and nowhere else, however the bytes are cut into segments.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import BinaryIO, cast

END = b"\r\n.\r\n"
_BEGUN_ENDS = [END[:length] for length in range(len(END) - 1, 0, -1)]
SMALL = 16384  # octets that each content may keep in memory
_FOR_ALL = 64 * 1024 * 1024  # octets of memory for all contents that are larger
_HEAD = 65536  # octets of spooled content that are kept at hand: the header fields
_MAX_HOPS = 100  # RFC 5321 6.3
_FIELDS = re.compile(rb"(?:[!-9;-~]++[ \t]*+:[^\n]*+\n(?:[ \t][^\n]*+\n)*+)*+")
_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")


class SharedMemory:
    """Memory for the contents that come in at the same time, beyond what each has for itself."""

    def __init__(self, octets: int = _FOR_ALL) -> None:
        self.free = octets

    def take(self, octets: int) -> bool:
        """Take so much; False when there is less."""
        if octets > self.free:
            return False
        self.free -= octets
        return True

    def give_back(self, octets: int) -> None:
        """Return what was taken."""
        self.free += octets


class DataReader:
    """Takes content in pieces, to its true end.

    Content of more than `memory` octets is written to a spool as it comes in; of these, those
    over 16 KiB are taken from `shared` if there are so many. What is over `limit`, or
    `malformed`, is read to its end but not kept. Whoever makes a reader must close it.
    """

    def __init__(
        self,
        limit: int,
        *,
        memory: int,
        shared: SharedMemory | None = None,
        make_spool: Callable[[], BinaryIO] = io.BytesIO,
        normalise: bool = False,
    ) -> None:
        self.content = b""  #: all of it, or the first 64 KiB when there is a spool
        self.spool: BinaryIO | None = None
        self.spool_error: OSError | None = None  #: why the content could not be kept
        self.size = 0  #: octets of content, without the dots that were doubled for the wire
        self.malformed = False  #: has a NUL, or a bare CR or LF that was not normalised
        self._limit = limit
        self._most = memory
        self._memory = min(memory, SMALL)
        self._shared = shared or SharedMemory()
        self._borrowed = 0
        self._make_spool = make_spool
        self._normalise = normalise
        self._kept = bytearray()  # content, as long as there is no spool
        self._held = b"\r\n"  # what may begin the end; after the 354 a line begins
        self._ahead = len(self._held)  # octets of it that are no content

    @property
    def too_big(self) -> bool:
        """True when the content is longer than the limit."""
        return self.size > self._limit

    @property
    def endless(self) -> bool:
        """True when more than twice the limit has come in, and no end."""
        return self.size + len(self._held) > 2 * self._limit + len(END)

    def feed(self, piece: bytes) -> bytes | None:
        """Take the next bytes; return what follows the end, or None while it is yet to come."""
        data = self._held + piece if self._held else piece
        # To look for one octet costs nothing, and the lines of an attachment have no dots.
        dot = data.find(b".")
        end = data.find(END, max(dot - 2, 0)) if dot >= 0 else -1
        if end >= 0:
            self._take(data, end + 2)
            self._finish()
            return data[end + len(END) :]
        cut = len(data) - _octets_of_end(data)
        self._take(data, cut)
        self._held = data[cut:]
        return None

    def close(self) -> None:
        """Forget the content, and give back the memory."""
        self.content = b""
        self._free_memory()
        spool, self.spool = self.spool, None
        if spool is not None:
            with contextlib.suppress(OSError):  # what it held back may not fit on the disk, either
                spool.close()

    def _take(self, data: bytes, cut: int) -> None:
        """Keep the octets before `cut`, undotted, if they are well-formed."""
        block = data[:cut]
        if b"." in block:
            block = block.replace(b"\r\n.", b"\r\n")
        if self._ahead and block:
            block, self._ahead = block[self._ahead :], 0
        if b"\0" in block:
            self.malformed = True
        elif _has_bare_line_ends(block):
            if self._normalise:
                block = _ANY_LINE_END.sub(b"\r\n", block)
            else:
                self.malformed = True
        self.size += len(block)
        if self.malformed or self.too_big or self.spool_error is not None:
            self.close()
        else:
            self._keep(block)

    def _keep(self, block: bytes) -> None:
        if self.spool is None and self._has_room(len(self._kept) + len(block)):
            self._kept += block
            return
        try:
            if self.spool is None:
                self._begin_spool()
            cast(BinaryIO, self.spool).write(block)
        except OSError as error:
            self.spool_error = error
            self.close()

    def _has_room(self, octets: int) -> bool:
        """Take memory for so many, if so much is left."""
        if octets <= self._memory:
            return True
        more = min(max(octets, 2 * self._memory), self._most) - self._memory
        if octets > self._most or not self._shared.take(more):
            return False
        self._borrowed += more
        self._memory += more
        return True

    def _begin_spool(self) -> None:
        self.spool = self._make_spool()
        self.spool.write(self._kept)
        self._free_memory()

    def _finish(self) -> None:
        if self.spool is None:
            self.content = bytes(self._kept)
            return
        try:
            self.spool.seek(0)
            self.content = self.spool.read(_HEAD)
        except OSError as error:  # what was held back did not fit on the disk
            self.spool_error = error
            self.close()

    def _free_memory(self) -> None:
        self._kept = bytearray()
        self._shared.give_back(self._borrowed)
        self._memory -= self._borrowed
        self._borrowed = 0


def _octets_of_end(data: bytes) -> int:
    """Return how many octets, at the end of `data`, may begin the end of the content."""
    return next((len(begun) for begun in _BEGUN_ENDS if data.endswith(begun)), 0)


def _has_bare_line_ends(block: bytes) -> bool:
    # Five times as fast as to count CR, LF and CR LF.
    seen = io.IncrementalNewlineDecoder(None, translate=False)
    seen.decode(block.decode("latin-1"), final=True)
    return seen.newlines not in (None, "\r\n")


def has_too_many_hops(content: bytes) -> bool:
    """Say whether the head holds more than 50 Received fields: the mail goes in a circle.

    The head ends with the first line that is neither a field nor goes on with one.
    """
    end = content.find(b"\r\n\r\n")
    end = len(content) if end < 0 else end + 2
    if content.count(b"\n", 0, end) <= _MAX_HOPS:
        return False
    fields = _FIELDS.match(content, 0, end)
    return fields is not None and len(_RECEIVED.findall(fields[0])) > _MAX_HOPS
