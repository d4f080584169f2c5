"""The grammar of the envelope (RFC 5321 4.1.2, RFC 6531)."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailapp.addresses import a_labels, fold, split, take_path
from mailapp.errors import BadAddress
from mailapp.relay.wire import is_sendable
from tests.fuzzing import fuzzed


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("<>", ""),
        ("<you@example.com>", "you@example.com"),
        ("<PostMaster@Example.COM>", "PostMaster@example.com"),
        ("<postmaster>", "postmaster"),
        ('<"a@b"@example.com>', '"a@b"@example.com'),
        ('<"a\\"> <b"@example.com>', '"a\\"> <b"@example.com'),
        ('<""@example.com>', '""@example.com'),
        ('<"nobody"@example.com>', "nobody@example.com"),
        ('<"n\\o\\b.ü"@example.com>', "nob.ü@example.com"),
        ('<"a..b"@example.com>', '"a..b"@example.com'),
        ('<"a\\ \\b"@example.com>', '"a b"@example.com'),
        ('<"a\\\\"@example.com>', '"a\\\\"@example.com'),
        ("<a\u037eb@example.com>", "a\u037eb@example.com"),  # NFC makes it a semicolon
        ("<\u212aate@example.com>", "\u212aate@example.com"),  # and this a K
        ("<u\u0308@example.com>", "ü@example.com"),
        ('<"PostMaster">', "PostMaster"),
        ("<@example.com:user@client.test>", "user@client.test"),
        ("<@a.test,@b.test:user@client.test>", "user@client.test"),
        ("<@a.test,@bücher.example:user@client.test>", "user@client.test"),
        ("<a!b%c@example.com>", "a!b%c@example.com"),
        ("<user@[127.0.0.1]>", "user@[127.0.0.1]"),
        ("<user@[IPv6:::1]>", "user@[ipv6:::1]"),
        ("<-oQ/tmp@example.com>", "-oQ/tmp@example.com"),
        ("<${jndi}@example.com>", "${jndi}@example.com"),
        ("<ü@example.com>", "ü@example.com"),
        ("<user@ＥＸＡＭＰＬＥ.com>", "user@example.com"),
        ("<user@bücher.example>", "user@xn--bcher-kva.example"),
        ("<" + "a" * 64 + "@example.com>", "a" * 64 + "@example.com"),
    ],
)
def test_legal_paths_are_read(text: str, address: str) -> None:
    assert take_path(text + " SIZE=1") == (address, " SIZE=1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user@example.com",
        "<user@example.com",
        "<user@example.com@client.test>",
        "<user>",
        '<"user@example.com">',
        "<user@>",
        "<@example.com>",
        "<user@.example.com>",
        "<user@example..com>",
        "<user@-example.com>",
        "<user@example.com.>",
        "<.user@example.com>",
        "<user.@example.com>",
        "<us..er@example.com>",
        "<us er@example.com>",
        "<us\ter@example.com>",
        "<us\rer@example.com>",
        "<us\0er@example.com>",
        '<"us\ner"@example.com>',
        '<"user@example.com>',
        "<user@[]>",
        "<user@[1.2.3]>",
        "<user@[IPv6:x]>",
        "<user@[IPv6:fe80::1%eth0]>",
        "<user@[IPv6:::1%]>",
        "<@-a.test:user@client.test>",
        "<@a.test,@b..test:user@client.test>",
        "<@a_b.test:user@client.test>",
        "<@a.test,@b\u202etest:user@client.test>",
        "<user@-ü.example>",
        "<user@ü-.example>",
        "<user@xn--ü.example>",
        "<user@ab--ü.example>",
        "<user@\u3164.example>",
        "<user@a\u115fb.example>",
        "<user@a\u1160b.example>",
        "<user@a\uffa0b.example>",
        "<user@a\u034fb.example>",
        "<(comment)user@example.com>",
        "<" + "(" * 400 + "@example.com>",
        "<\u202euser@example.com>",
        "<user@ex\u202eample.com>",
        "<user@💩.example>",
        "<" + "a" * 65 + "@example.com>",
        "<" + "ü" * 33 + "@example.com>",
        '<"' + "a" * 63 + '"@example.com>',
        "<user@" + "a" * 64 + ".example>",
        "<user@" + "a." * 130 + "example>",
        "<" + "a" * 64 + "@" + ("b" * 60 + ".") * 3 + "example.com>",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        take_path(text)


def test_letters_that_only_look_alike_are_other_people() -> None:
    assert fold("\u0435@example.com") != fold("e@example.com")


def test_only_ascii_is_folded() -> None:
    assert (
        fold("ANN\u00dc\u0130\u017f\u212a@Example.COM") == "ann\u00dc\u0130\u017f\u212a@example.com"
    )


def test_sharp_s_is_not_ss() -> None:
    assert a_labels("straße.example") == "xn--strae-oqa.example"


SPECIAL = [
    *'<>@."\\:,;[]()%! \r\n\t\0-aA1',
    *("ü", "e\u0301", "\u0301", "\u0435", "\u212a", "\u0130", "ß", "\ufb00", "\uff11", "\uff21"),
    *("\u3002", "\uff0e", "\u00ad", "\u200d", "\u202e", "\u2028", "\x85", "\ud800", "💩"),
    *("xn--", "postmaster", "@example.com", "[127.0.0.1]", "[IPv6:::1]", '""', '"a@b"'),
]
texts = st.text() | st.lists(st.sampled_from(SPECIAL), max_size=12).map("".join)


@fuzzed
@given(texts)
@example("postmaster")
@example("@a.test,@b.test:user")
@example("a@[IPv6:::1]")
@example("e\u0301")
@example("\ud800")
def test_any_text_is_read_or_refused(text: str) -> None:
    for path in (
        text,
        f"<{text}>",
        f"<{text}@example.com>",
        f"<user@{text}>",
        f'<"{text}"@a.test>',
    ):
        try:
            address, rest = take_path(path)
        except BadAddress:
            continue
        local, domain = split(address)
        assert path.endswith(rest)
        assert address.isprintable()
        assert domain.isascii()
        assert len(local.encode()) <= 64
        assert len(address.encode()) <= 254
        assert take_path(f"<{address}>") == (address, ""), "what was read reads as another"
        assert is_sendable(address)


@fuzzed
@given(st.text(alphabet=st.sampled_from('ab.ü\u0301;:@< "\\') | st.characters(), max_size=20))
@example(">")
@example("postmaster>")
@example('""')
def test_however_a_local_part_is_quoted_it_is_one_mailbox(content: str) -> None:
    quoted = "".join(f"\\{char}" if char in '"\\' else char for char in content)
    all_quoted = "".join(f"\\{char}" if " " <= char <= "~" else char for char in content)
    forms = [
        f'<"{quoted}"@example.com>',
        f'<"{all_quoted}"@example.com>',
    ]
    if not content.startswith('"'):  # else it is read as quoted already
        forms.append(f"<{content}@example.com>")
    found = set()
    for form in forms:
        try:
            address, rest = take_path(form)
        except BadAddress:
            continue
        if not rest:  # else the path ended within what was to be quoted
            found.add(address)

    if not content.startswith("@"):  # not a source route
        assert len(found) <= 1
        assert {take_path(f"<{address}>")[0] for address in found} == found


atoms = st.text(
    string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-", min_size=1, max_size=9
)
labels = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,8}[A-Za-z0-9])?", fullmatch=True)


@fuzzed
@given(st.lists(atoms, min_size=1, max_size=4), st.lists(labels, min_size=1, max_size=4))
def test_every_plain_address_comes_back_as_it_was_written(
    local: list[str], domain: list[str]
) -> None:
    address = f"{'.'.join(local)}@{'.'.join(domain).lower()}"

    assert take_path(f"<{address}>") == (address, "")
