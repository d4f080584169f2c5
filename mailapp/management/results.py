"""What became of many mails that were sent, in a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mailapp.dialogue import DialogueFailed, Refused

_REASONS_SHOWN = 10


class Results:
    """Counts the mails that were sent, and why the others were not."""

    def __init__(self) -> None:
        self.sent = 0
        self.first: DialogueFailed | None = None  #: of the failures
        self._refused = 0
        self._reasons: Counter[str] = Counter()

    def count(self, failure: DialogueFailed | None) -> None:
        """Note how the next mail ended."""
        if failure is None:
            self.sent += 1
            return
        self.first = self.first or failure
        self._refused += isinstance(failure, Refused)
        self._reasons[failure.reason] += 1

    @property
    def tried(self) -> int:
        """How many were counted."""
        return self.sent + self._reasons.total()

    @property
    def exit_code(self) -> int:
        """That of the first mail that failed, or 0."""
        return self.first.exit if self.first else 0

    def summary(self, seconds: float) -> str:
        """Say it in one line; `seconds` is how long it took."""
        failed = self._reasons.total() - self._refused
        return (
            f"{self.sent} sent, {self._refused} refused, {failed} failed "
            f"in {seconds:.2f} s: {self.sent / seconds:.1f} per second"
        )

    def reasons(self) -> Iterator[str]:
        """Yield a line for each of the most frequent reasons."""
        for reason, count in self._reasons.most_common(_REASONS_SHOWN):
            yield f"{count:>6} x {reason}"
