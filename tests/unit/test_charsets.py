"""Octets become text, whatever charset strangers name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailapp import charsets


@given(st.binary(), st.text())
def test_any_charset_gives_text(data, charset):
    charsets.to_text(data, charset).encode()


def test_unknown_charsets_are_not_remembered_by_python():
    import encodings

    charsets.to_text(b"a", "x-stranger")

    assert "x_stranger" not in encodings._cache


@pytest.mark.parametrize(
    ("name", "codec", "text"),
    [
        ("Windows-31J", "cp932", "①"),
        ("x-sjis", "cp932", "日本"),
        ("X-EUC-JP", "euc_jp", "日本"),
        ("GBK", "gb18030", "镕€"),
        ("x-gbk", "gb18030", "镕"),
        ("windows-949", "cp949", "똠"),
        ("windows-874", "cp874", "ไทย"),
        ("iso-8859-8-i", "iso8859_8", "שלום"),
        ("ISO-8859-8-E", "iso8859_8", "שלום"),
        ("x-mac-roman", "mac_roman", "é"),
        ("x-mac-cyrillic", "mac_cyrillic", "привет"),
        ("x-cp1251", "cp1251", "привет"),
        ('"koi8-r" (Russian)', "koi8_r", "привет"),
    ],
)
def test_charset_is_known_by_the_names_that_occur(name, codec, text):
    assert charsets.to_text(text.encode(codec), name) == text


def test_text_with_few_octets_that_do_not_fit_keeps_its_charset():
    octets = "привет, ".encode() + "é".encode("latin-1") + " мир".encode()

    assert charsets.to_text(octets, "utf-8") == "привет, \ufffd мир"
    assert charsets.to_text(octets, "x-stranger") == "привет, \ufffd мир"
