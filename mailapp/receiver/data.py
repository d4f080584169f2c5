"""The content of a mail, from the 354 to its true end. Pure: bytes in, bytes out.

Content ends at CR LF . CR LF and nowhere else, however the bytes are cut into segments.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import BinaryIO

END = b"\r\n.\r\n"
SMALL = 16384  # octets that each content may keep in memory
_FOR_ALL = 64 * 1024 * 1024  # octets of memory for all contents that are larger
_HEAD = 65536  # octets of spooled content that are kept at hand: the header fields
_SPOOL_PIECE = 131072  # octets that are written to a spool at once
_CONTEXT = 2  # octets kept before those not yet taken: they tell whether a line begins there
_MAX_HOPS = 50
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
        self._most = max(memory, len(END))  # so that no cut falls into a beginning of the end
        self._memory = min(self._most, SMALL)
        self._shared = shared or SharedMemory()
        self._borrowed = 0
        self._make_spool = make_spool
        self._normalise = normalise
        self._buffer = bytearray(b"\r\n")  # after the 354 a line begins

    @property
    def too_big(self) -> bool:
        """True when the content is longer than the limit."""
        return self.size > self._limit

    @property
    def endless(self) -> bool:
        """True when more than twice the limit has come in, and no end."""
        return self.size + len(self._buffer) > 2 * self._limit + _CONTEXT + len(END)

    def feed(self, piece: bytes) -> bytes | None:
        """Take the next bytes; return what follows the end, or None while it is yet to come."""
        buffer = self._buffer
        searched = max(len(buffer) - len(END) + 1, 0)
        buffer += piece
        # To look for one octet costs nothing, and the lines of an attachment have no dots.
        dot = buffer.find(b".", searched)
        end = buffer.find(END, max(dot - 2, searched)) if dot >= 0 else -1
        if end >= 0:
            rest = bytes(buffer[end + len(END) :])
            outgrown = end > self._memory and not self._may_grow(end)
            self._keep(self._take(end + 2), in_spool=outgrown or self.spool is not None)
            return rest
        if len(buffer) > self._memory and not self._may_grow(len(buffer)):
            self._keep(self._take(self._safe_cut()), in_spool=True)
        return None

    def close(self) -> None:
        """Forget the spool, and give back the memory."""
        if self.spool is not None:
            self._forget_spool()
        if self._borrowed:
            self._give_back(self._borrowed)

    def _may_grow(self, octets: int) -> bool:
        """Take memory for so many, if so much is left; else, and from then on, there is a spool."""
        if self.size or octets > self._most:
            return False
        more = min(max(octets, 2 * self._memory), self._most) - self._memory
        if not self._shared.take(more):
            return False
        self._borrowed += more
        self._memory += more
        return True

    def _give_back(self, octets: int) -> None:
        self._shared.give_back(octets)
        self._borrowed -= octets

    def _forget_spool(self) -> None:
        spool, self.spool = self.spool, None
        if spool is not None:
            with contextlib.suppress(OSError):  # what it held back may not fit on the disk, either
                spool.close()

    def _safe_cut(self) -> int:
        """Where the buffer can be parted: behind a line, else anywhere but behind a CR."""
        line_end = self._buffer.rfind(b"\r\n", _CONTEXT)
        if line_end >= 0:
            return line_end + 2
        return len(self._buffer) - self._buffer.endswith(b"\r")

    def _take(self, cut: int) -> bytes:
        """Remove the octets before `cut` from the buffer; return them checked and undotted."""
        with memoryview(self._buffer) as view:
            block = view[_CONTEXT:cut].tobytes()
        if b"." in block and self._buffer.find(b"\r\n.", 0, cut) >= 0:
            block = bytes(self._buffer[:cut]).replace(b"\r\n.", b"\r\n")[_CONTEXT:]
        del self._buffer[: cut - _CONTEXT]
        if b"\0" in block:
            self.malformed = True
        elif _has_bare_line_ends(block):
            if self._normalise:
                return _ANY_LINE_END.sub(b"\r\n", block)
            self.malformed = True
        return block

    def _keep(self, block: bytes, *, in_spool: bool) -> None:
        self.size += len(block)
        if self.malformed or self.too_big or self.spool_error is not None:
            self.content = b""
            self._forget_spool()
            return
        if in_spool:
            self._write(block)
            self.content = self.content or block[:_HEAD]
        else:
            self.content = block

    def _write(self, block: bytes) -> None:
        try:
            if self.spool is None:
                self.spool = self._make_spool()
                self._memory = min(self._memory, _SPOOL_PIECE)
                self._give_back(max(self._borrowed - self._memory, 0))
            self.spool.write(block)
        except OSError as error:
            self.spool_error = error
            self._forget_spool()


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
