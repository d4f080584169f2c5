"""All views of a mail, and what holds for each; imports little, since programs start for it."""

from __future__ import annotations

import unicodedata

from mailapp import automatic, mime, people


def is_clean(text: str) -> bool:
    """Say whether a database takes this as one line of text."""
    return not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in text)


def read_all(raw: bytes) -> None:
    """Take every view of a mail that there is."""
    parsed = mime.parse(raw)
    assert all(is_clean(value) for _, value in mime.headers(parsed))
    for subtype in ("plain", "html"):
        text = mime.text_of(parsed, subtype)
        assert "\0" not in text
        text.encode()
    body = mime.body_of(parsed)
    assert "\0" not in body
    body.encode()
    mime.reply_text(body)
    for attachment in mime.attachments(parsed):
        assert is_clean(attachment.filename)
        assert isinstance(attachment.content, bytes)
    automatic.is_automatic(parsed)
    mime.is_report(parsed)
    people.mailbox(mime.raw_header(parsed, "From"))
    columns = mime.head_columns(raw)
    assert all(map(is_clean, columns))
    assert (len(columns.subject), len(columns.author), len(columns.message_id)) <= (255, 320, 255)
