"""Who wrote a mail. In this form: the envelope sender, folded; proof comes with SPF and DKIM."""

from __future__ import annotations

from dataclasses import dataclass

from mailapp.addresses import fold


@dataclass(frozen=True)
class Identity:
    """A person as far as we know; `proven` says whether the sender could have been forged."""

    person: str
    proven: bool = False


def of_sender(sender: str) -> Identity | None:
    """The identity behind an envelope sender; the null sender is nobody."""
    return Identity(fold(sender)) if sender else None
