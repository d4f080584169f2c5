"""How many of something there are, in words."""

from __future__ import annotations


def amount(count: int, one: str, many: str = "") -> str:
    """Write a count before the name of what is counted; `many` where an s does not do.

    >>> amount(1, "mail"), amount(0, "mail"), amount(2, "delivery", "deliveries")
    ('1 mail', '0 mails', '2 deliveries')
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"
