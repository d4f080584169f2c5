"""What an operator sees of a session: marked lines, and none that a terminal would act on."""

from __future__ import annotations

from collections.abc import Callable

from mailapp.amounts import amount

CRLF = b"\r\n"
_LINES_SHOWN = 40  # of a message
_COLUMNS_SHOWN = 300


def printable(line: bytes) -> str:
    r"""Return a line as text with all that a terminal would act on escaped.

    >>> printable(b"250 \x1b[2Jdone \xff")
    '250 \\x1b[2Jdone \\xff'
    """
    text = line.decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


class Transcript:
    """Shows a session line by line, with the marks that swaks made customary.

    ` -> ` is sent, `<-  ` received, `<** ` a refusal; `~` stands for `-` under TLS. `=== `
    is a note and `*** ` an error of our own. Before the last line of a reply stands how
    long it took.
    """

    def __init__(
        self, write: Callable[[str], object], *, quiet: bool = False, hide_body: bool = False
    ) -> None:
        """`quiet` leaves only what went wrong; `hide_body` only the header of the message."""
        self.encrypted = False
        self._write = write
        self._quiet = quiet
        self._hide_body = hide_body

    def note(self, text: str) -> None:
        self._show(f"=== {text}")

    def error(self, text: str) -> None:
        self._show(f"*** {text}", wrong=True)

    def sent(self, line: bytes) -> None:
        self._show(f" {'~' if self.encrypted else '-'}> {printable(line)}")

    def received(self, line: bytes, *, wanted: bool, seconds: float | None = None) -> None:
        """`seconds` is given for the last line of a reply."""
        dash = "~" if self.encrypted else "-"
        mark = f"<{dash} " if wanted else "<~*" if self.encrypted else "<**"
        self._show(f"{mark} {printable(line)}", seconds, wrong=not wanted)

    def sent_message(self, wire: bytes) -> None:
        """Show a message, abridged when it is long."""
        if self._quiet:
            return
        head, blank, _ = wire.partition(CRLF + CRLF)
        shown = head + CRLF if self._hide_body and blank else wire
        *lines, _ = shown.split(CRLF, _LINES_SHOWN)
        for line in lines:
            self.sent(line if len(line) <= _COLUMNS_SHOWN else line[:_COLUMNS_SHOWN] + b" ...")
        if left := wire.count(CRLF) - len(lines):
            self.note(f"{amount(left, 'more line')}, {amount(len(wire), 'octet')} in all")

    def _show(self, text: str, seconds: float | None = None, *, wrong: bool = False) -> None:
        if wrong or not self._quiet:
            took = "" if seconds is None else f"{seconds * 1000:.1f} ms"
            self._write(f"{took:>11} {text}")
