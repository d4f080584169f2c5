"""Octets to text, in the charsets that strangers name. Pure: no database, no network."""

from __future__ import annotations

import binascii
import contextlib
import encodings.aliases
import pkgutil
import re
from itertools import groupby

from mailapp.addresses import quoted

# The others are no charsets, run for minutes (idna, punycode), or read escapes into the text.
_CHARSETS = (
    {module.name for module in pkgutil.iter_modules(encodings.__path__)}
    | set(encodings.aliases.aliases)
) - {"idna", "punycode", "raw_unicode_escape", "unicode_escape", "mbcs", "oem"}

# What is meant by these names, as in every browser (https://encoding.spec.whatwg.org).
_MEANT = {
    "iso_8859_1": "cp1252",
    "iso_8859_8_e": "iso8859_8",
    "iso_8859_8_i": "iso8859_8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x_gbk": "gb18030",
    "shift_jis": "cp932",
    "windows_31j": "cp932",
    "x_sjis": "cp932",
    "x_euc_jp": "euc_jp",
    "euc_kr": "cp949",
    "ks_c_5601_1987": "cp949",
    "windows_949": "cp949",
    "windows_874": "cp874",
    "x_cp1250": "cp1250",
    "x_cp1251": "cp1251",
    "x_mac_cyrillic": "mac_cyrillic",
    "x_mac_roman": "mac_roman",
}
_NAME = re.compile(r"[\w.:+-]+", re.ASCII)  #: without quotes and comments (RFC 2045 5.1)


def to_text(data: bytes, charset: str | None) -> str:
    """Decode with `charset` where it is known and fits, else UTF-8, else Windows-1252.

    One that does not fit a few octets fits. Never raises, and leaves no half of a surrogate pair.
    """
    if charset is None and data.isascii():
        return data.decode("ascii")
    candidates = [name for name in (_known(charset), "utf_8") if name]
    for errors in ("strict", "replace"):
        for name in candidates:
            try:
                text = data.decode(name, errors)
                text.encode()
            except (LookupError, ValueError):
                continue
            if errors == "strict" or _is_mostly_right(text):
                return text
    return data.decode("cp1252", "replace")


def _known(charset: str | None) -> str:
    """Return Python's name of a charset; "" of one that it does not know.

    It remembers for ever each unknown name that it is asked for.
    """
    found = _NAME.search(charset or "utf_8")
    name = encodings.normalize_encoding(found[0].lower()) if found else ""
    name = _MEANT.get(name, name)
    return name if name in _CHARSETS else ""


def _is_mostly_right(text: str) -> bool:
    """Say whether few octets did not fit: a character was cut, or something else pasted."""
    return sum(char > "\x7f" for char in text) > 3 * text.count("\ufffd")


# Words as RFC 2047 has them, and with the spaces and the language of RFC 2231 that occur.
_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bq])\?([^?]*)\?=", re.IGNORECASE)
_WORDS = re.compile(r"(?:=\?[^?\s]+\?[bq]\?[^?]*\?=\s*)+", re.IGNORECASE)


def with_words_decoded(text: str) -> str:
    """Return the text of a header field with its encoded words decoded; never raises."""
    return _WORDS.sub(_decode_words, text)


def with_names_decoded(text: str) -> str:
    r"""Do the same in a field of addresses, where no name that was encoded may become one.

    >>> with_names_decoded("=?utf-8?q?boss=40x=2Etest?= <a@y.test>")
    '"boss@x.test" <a@y.test>'
    """
    return _NAMES.sub(_decode_name, text)


_NAMES = re.compile(rf'"(?:[^"\\]|\\.)*+"|\\.|{_WORDS.pattern}', re.IGNORECASE)
_SPECIAL = re.compile(r'[<>@,;:"]')


def _decode_name(found: re.Match[str]) -> str:
    if found[0].startswith("\\"):
        return found[0]
    if found[0].startswith('"'):
        return _WORDS.sub(lambda words: quoted(_decode_words(words))[1:-1], found[0])
    text = _decode_words(found)
    name = text.rstrip()
    return f"{quoted(name)}{text[len(name) :]}" if _SPECIAL.search(name) else text


def _decode_words(found: re.Match[str]) -> str:
    """Decode words that follow each other; a character may be parted between two of them."""
    words = groupby(_WORD.findall(found[0]), key=lambda word: word[0].lower())
    text = "".join(
        to_text(b"".join(_word_octets(*word) for word in alike), charset)
        for charset, alike in words
    )
    return text + " " if found[0][-1].isspace() else text


def _word_octets(charset: str, encoding: str, text: str) -> bytes:
    octets = text.encode() if text.isascii() else _as_it_was(text, charset)
    if encoding in "qQ":
        return binascii.a2b_qp(octets, header=True)
    return from_base64(octets)


def from_base64(octets: bytes) -> bytes:
    """Return what base64 stands for, whatever else is between it or is missing at its end."""
    digits = re.sub(rb"[^A-Za-z0-9+/]", b"", octets)
    whole = digits[: -1 if len(digits) % 4 == 1 else None]
    return binascii.a2b_base64(whole + b"==")


def _as_it_was(text: str, charset: str) -> bytes:
    """Return the octets of a word that holds what it should have encoded."""
    for name in (_known(charset), "cp1252"):
        with contextlib.suppress(LookupError, ValueError):
            return text.encode(name)
    return text.encode("utf-8", "replace")
