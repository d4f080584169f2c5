"""Content ends at CR LF . CR LF and nowhere else, however it is cut."""

from __future__ import annotations

import errno
import io
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailapp.receiver.data import DataReader, SharedMemory, has_too_many_hops
from tests.fuzzing import fuzzed
from tests.plain_reader import is_malformed, read_content

LIMIT = 60


def read(pieces: list[bytes], **options: int | bool) -> tuple[DataReader, bytes | None, bytes]:
    """Feed pieces to a reader; return it, what followed the end, and all of the content."""
    reader = DataReader(**{"limit": 10_000, "memory": 1000, **options})
    rest = None
    for number, piece in enumerate(pieces):
        rest = reader.feed(piece)
        if rest is not None:
            rest += b"".join(pieces[number + 1 :])
            break
    kept = reader.spool.getvalue() if isinstance(reader.spool, io.BytesIO) else reader.content
    return reader, rest, kept


tokens = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b".", b"\0", b"a", b"\r\n.\r\n", b"\r\n..", b"xyz" * 7]
)
streams = st.lists(tokens, max_size=30).map(b"".join)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    """Any stream, cut at any places."""
    stream = draw(streams) + b"\r\n.\r\n" + draw(streams)
    cuts = sorted(draw(st.sets(st.integers(1, max(len(stream) - 1, 1)), max_size=12)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@fuzzed
@given(pieces=cut_streams(), memory=st.integers(1, 80))
@example(pieces=[b".", b"\r", b"\n"], memory=1)
@example(pieces=[b"a\r\n", b".", b"\r", b"\n", b"rest"], memory=1)
def test_any_segmentation_reads_what_the_plain_reader_reads(
    pieces: list[bytes], memory: int
) -> None:
    expected, expected_rest = read_content(b"".join(pieces)) or (None, None)

    reader, rest, kept = read(pieces, memory=memory)

    assert rest == expected_rest
    assert reader.malformed == is_malformed(expected)
    assert reader.size == len(expected)
    if not reader.malformed:
        assert kept == expected


@fuzzed
@given(pieces=cut_streams(), memory=st.integers(1, 80))
@example(pieces=[b"\r", b"\n", b".", b"\r", b"\n"], memory=1)
def test_content_over_the_limit_is_read_to_its_end_and_not_kept(
    pieces: list[bytes], memory: int
) -> None:
    expected, expected_rest = read_content(b"".join(pieces)) or (b"", None)

    reader, rest, _ = read(pieces, limit=LIMIT, memory=memory)

    assert rest == expected_rest
    assert reader.too_big == (len(expected) > LIMIT)
    assert not reader.too_big or reader.content == b""


@fuzzed
@given(pieces=cut_streams())
def test_normalised_content_has_no_bare_line_ends(pieces: list[bytes]) -> None:
    reader, _, kept = read(pieces, normalise=True, memory=10)

    if not reader.malformed:
        assert not is_malformed(kept)


def test_what_is_kept_in_memory_does_not_grow_with_the_content() -> None:
    reader = DataReader(limit=10**9, memory=1000)

    for _ in range(1000):
        reader.feed(b"x" * 998 + b"\r\n")

    assert len(reader.content) + len(reader._kept) < 5000
    assert reader.spool is not None


def test_a_line_without_an_end_is_not_kept_in_memory() -> None:
    reader = DataReader(limit=10**9, memory=1000)

    for _ in range(1000):
        reader.feed(b"x" * 1000)

    assert len(reader.content) + len(reader._kept) < 5000
    assert not reader.endless


def test_twice_the_limit_without_an_end_is_endless() -> None:
    reader = DataReader(limit=1000, memory=100)

    for _ in range(2000):
        reader.feed(b"x")
    assert not reader.endless
    reader.feed(b"x" * 10)

    assert reader.endless


@pytest.mark.parametrize(("count", "too_many"), [(0, False), (100, False), (101, True)])
def test_more_than_a_hundred_received_fields_are_too_many(count: int, too_many: bool) -> None:
    content = b"RECEIVED: from a by b\r\n" * count + b"\r\nReceived: no field\r\n" * 110

    assert has_too_many_hops(content) == too_many


@pytest.mark.parametrize("name", [b"Received", b"RECEIVED "])
@pytest.mark.parametrize(
    ("before", "too_many"),
    [
        (b"", True),
        (b"Subject: Hello\r\n", True),
        (b"\r\n", False),
        (b"Hello.\r\n", False),
        (b"Hello you:\r\n", False),
        (b"> Subject: Hello\r\n", False),
    ],
)
def test_received_fields_are_counted_in_the_head_alone(
    before: bytes, too_many: bool, name: bytes
) -> None:
    hops = (name + b": from a\r\n\tby b\r\n") * 110

    assert has_too_many_hops(before + hops + b"\r\nHello.\r\n") == too_many
    assert has_too_many_hops(before + hops) == too_many


LINE = b"x" * 998 + b"\r\n"


def _reader(shared: SharedMemory, memory: int = 200_000) -> DataReader:
    return DataReader(10**9, memory=memory, shared=shared)


def test_contents_that_come_in_together_share_the_memory() -> None:
    shared = SharedMemory(100_000)
    first, second, third, small = (_reader(shared) for _ in range(4))

    first.feed(LINE * 100)
    second.feed(LINE * 40)
    small.feed(LINE * 16)
    assert first.spool is None
    assert second.spool is not None
    assert len(second._kept) < 1000
    assert small.spool is None

    for reader in (first, second, small):
        reader.close()
        reader.close()
    assert shared.free == 100_000
    third.feed(LINE * 40)
    assert third.spool is None


def test_content_that_comes_in_one_piece_takes_no_more_memory_than_any_other() -> None:
    reader = _reader(SharedMemory(10_000))

    assert reader.feed(LINE * 40 + b".\r\n") == b""

    assert isinstance(reader.spool, io.BytesIO)
    assert reader.spool.getvalue() == LINE * 40


def test_content_that_outgrows_its_memory_gives_it_back() -> None:
    shared = SharedMemory(1_000_000)
    reader = _reader(shared, memory=500_000)

    for _ in range(6):
        reader.feed(LINE * 100)
    assert reader.feed(b".\r\n") == b""

    assert isinstance(reader.spool, io.BytesIO)
    assert reader.spool.getvalue() == LINE * 600
    assert shared.free >= 1_000_000 - 131_072


@pytest.mark.parametrize("memory", [1, 1500, 100_000])
def test_head_of_spooled_content_is_at_hand_however_it_came_in(memory: int) -> None:
    reader, _, kept = read([LINE] * 200 + [b".\r\n"], limit=10**6, memory=memory)

    assert reader.spool is not None
    assert kept == LINE * 200
    assert reader.content == kept[:65536]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_does_not_end_the_content_before_its_end() -> None:
    reader = DataReader(10**6, memory=100, make_spool=partial(Path("/dev/full").open, "r+b"))

    assert reader.feed(b"x" * 200 + b"\r\n") is None
    assert reader.feed(b"x" * 20_000 + b"\r\n") is None
    assert reader.feed(b".\r\nQUIT\r\n") == b"QUIT\r\n"
    reader.close()

    assert reader.spool_error is not None
    assert reader.spool_error.errno == errno.ENOSPC
