"""Lines as the contract has them, whatever the bytes are and wherever the reads are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.recorder.lines import MAX_LINE_BYTES, Cutter

Reads = list[bytes]
Event = tuple[int, bytes]

# Mostly the bytes that matter: LF, CR, an escape sequence, half a character; and lengths around the limit of a line.
pieces = st.one_of(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"\x1b[1m", "é".encode()[:1], b"", b"\x0b\x0c\x1c\x85"]),
    st.binary(max_size=20),
    st.integers(MAX_LINE_BYTES - 3, MAX_LINE_BYTES).map(lambda size: b"x" * size),
)
reads = st.lists(st.lists(pieces, max_size=4).map(lambda p: b"".join(p)[:MAX_LINE_BYTES]).filter(bool), max_size=12)


def fed(given_reads: Reads, flush_after: set[int] = frozenset()) -> list[Event]:  # type: ignore[assignment]
    """The events of *given_reads*, the n-th of which is read at n ns; flushed after some, and at the end."""
    cutter = Cutter()
    events: list[Event] = []

    def flush() -> None:
        events.extend((at, line) for at, lines in cutter.flush() for line in lines)

    for at, data in enumerate(given_reads):
        cutter.feed(data, at)
        if at in flush_after:
            flush()
    flush()
    return events


def brought_by(given_reads: Reads) -> list[int]:
    """For each byte, the number of the read that brought it."""
    return [number for number, data in enumerate(given_reads) for _ in data]


@given(reads, st.sets(st.integers(0, 11)))
def test_concatenated_events_are_the_bytes_that_were_read(given_reads: Reads, flush_after: set[int]) -> None:
    assert b"".join(line for _, line in fed(given_reads, flush_after)) == b"".join(given_reads)


@given(reads, st.sets(st.integers(0, 11)))
def test_an_event_has_at_most_one_lf_and_that_last_and_at_most_64_kib(given_reads: Reads, flush: set[int]) -> None:
    for _, line in fed(given_reads, flush):
        assert line
        assert len(line) <= MAX_LINE_BYTES
        assert b"\n" not in line[:-1]


@given(reads, st.sets(st.integers(0, 11)))
def test_an_events_time_is_that_of_the_read_that_brought_its_first_byte(given_reads: Reads, flush: set[int]) -> None:
    events = fed(given_reads, flush)
    source = brought_by(given_reads)
    begins = itertools.accumulate((len(line) for _, line in events), initial=0)

    assert [at for at, _ in events] == [source[begin] for begin, _ in zip(begins, events, strict=False)]
    assert [at for at, _ in events] == sorted(at for at, _ in events)


@given(reads)
def test_without_flushes_only_a_full_line_ends_before_its_lf(given_reads: Reads) -> None:
    """However the reads were cut: a line is one event, unless it is longer than 64 KiB."""
    events = fed(given_reads)

    for _, line in events[:-1]:
        assert line.endswith(b"\n") or len(line) == MAX_LINE_BYTES


@given(st.binary(min_size=1, max_size=200))
def test_reads_of_one_byte_give_the_lines_of_one_read(data: bytes) -> None:
    byte_by_byte = fed([data[i : i + 1] for i in range(len(data))])

    assert [line for _, line in byte_by_byte] == [line for _, line in fed([data])]


def test_cr_alone_ends_no_line() -> None:
    assert fed([b"10%\r20%\r", b"done\r\n"]) == [(0, b"10%\r20%\rdone\r\n")]


def test_what_was_flushed_is_not_joined_with_what_comes() -> None:
    assert fed([b"Name? ", b"Ada\n"], {0}) == [(0, b"Name? "), (1, b"Ada\n")]


def test_lines_of_one_read_share_its_time_and_the_next_read_has_its_own() -> None:
    assert fed([b"a\nb\nc", b"c\nd\n"]) == [(0, b"a\n"), (0, b"b\n"), (0, b"cc\n"), (1, b"d\n")]


def test_a_line_of_exactly_64_kib_with_its_lf_is_one_event() -> None:
    line = b"x" * (MAX_LINE_BYTES - 1) + b"\n"

    assert fed([line[:100], line[100:]]) == [(0, line)]


def test_an_lf_after_64_kib_without_one_is_a_line_of_its_own() -> None:
    assert fed([b"x" * MAX_LINE_BYTES, b"\n"]) == [(0, b"x" * MAX_LINE_BYTES), (1, b"\n")]


@pytest.mark.parametrize("size", [1_000, 4_096, MAX_LINE_BYTES])
def test_a_line_of_10_mb_is_cut_every_64_kib(size: int) -> None:
    data = bytes(range(11, 251)) * 43_691 + b"\n"  # 10 MB without LF, then one

    events = fed([data[i : i + size] for i in range(0, len(data), size)])

    assert b"".join(line for _, line in events) == data
    assert {len(line) for _, line in events[:-1]} == {MAX_LINE_BYTES}


def test_it_says_how_much_it_holds_and_since_when() -> None:
    cutter = Cutter()
    assert (cutter.held_bytes, cutter.began_ns) == (0, -1)

    cutter.feed(b"a\nb", 5)
    cutter.feed(b"c", 9)
    assert (cutter.held_bytes, cutter.began_ns) == (4, 5)

    cutter.flush()
    assert (cutter.held_bytes, cutter.began_ns) == (0, -1)
    assert cutter.flush() == []
