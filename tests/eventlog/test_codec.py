"""Stored bytes: what goes in comes out, what is damaged says so, and other versions' records are read or kept."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import codec
from eventlog.codec import (
    Record,
    StoredEvent,
    decode,
    encode,
    is_of,
    output_record,
    records_of,
    session_prefix,
)
from eventlog.errors import EventDecodeError
from eventlog.events import (
    Command,
    CommandOutcome,
    Event,
    Gap,
    Input,
    Marker,
    Output,
    Recorded,
    Resized,
    RulesChanged,
    SessionExited,
    SessionStarted,
    State,
    StateChanged,
    Stream,
    Unknown,
)
from tests.eventlog.helpers import BEGAN_NS, SESSION, events_of, output, sealed_value, started

texts = st.text(max_size=40)
sizes = st.integers(0, 2**63 - 1)
streams = st.sampled_from(get_args(Stream))
states = st.sampled_from(get_args(State))
lines = st.binary(max_size=300)

EVENTS: dict[type, st.SearchStrategy[Any]] = {
    SessionStarted: st.builds(
        SessionStarted,
        texts,
        st.lists(texts, max_size=5),
        texts,
        st.sampled_from(["pty", "pipe"]),
        sizes,
        sizes,
        texts,
        st.dictionaries(texts, texts, max_size=3),
        texts,
        st.sampled_from(["cli", "api", "import"]),
    ),
    Input: st.builds(Input, st.none() | lines, sizes, st.booleans(), texts),
    Resized: st.builds(Resized, sizes, sizes, texts),
    StateChanged: st.builds(StateChanged, states, states, texts, st.none() | sizes),
    Command: st.builds(
        Command,
        texts,
        texts,
        st.dictionaries(
            texts, texts | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | st.none()
        ),
        texts,
    ),
    CommandOutcome: st.builds(CommandOutcome, texts, st.sampled_from(["ok", "failed", "unknown"]), st.none() | texts),
    Marker: st.builds(Marker, texts, texts),
    RulesChanged: st.builds(RulesChanged, texts, st.text(max_size=5_000)),
    Gap: st.builds(Gap, streams, sizes, texts),
    SessionExited: st.builds(
        SessionExited,
        st.none() | st.integers(0, 255),
        st.none() | texts,
        sizes,
        sizes,
        sizes,
        st.booleans(),
        st.dictionaries(texts, st.floats(allow_nan=False), max_size=5),
    ),
}
outputs = st.builds(Output, streams, lines)


def test_every_type_that_is_stored_is_tried_here() -> None:
    assert {*EVENTS, codec.OutputRun} == {*get_args(StoredEvent)} == {*codec.TYPES}


@pytest.mark.parametrize("kind", EVENTS)
def test_an_event_comes_back_as_it_was_stored(kind: type) -> None:
    @given(EVENTS[kind], st.none() | texts, sizes, sizes)
    def comes_back(event: StoredEvent, session: str | None, at_ns: int, elapsed_ns: int) -> None:
        record = Record(session, at_ns, elapsed_ns, event)

        assert decode(7, encode(record)) == Record(session, at_ns, elapsed_ns, event, last=7)

    comes_back()


@given(streams, st.lists(st.tuples(sizes, st.lists(lines, min_size=1, max_size=8)), min_size=1, max_size=8), texts)
def test_output_comes_back_line_by_line_with_each_read_s_time(
    stream: Stream, reads: list[tuple[int, list[bytes]]], session: str
) -> None:
    written = [(elapsed_ns, line) for elapsed_ns, read in reads for line in read]

    record = decode(1_000, encode(output_record(session, BEGAN_NS, stream, reads)))

    assert list(record.events()) == [
        Recorded(position, session, BEGAN_NS + elapsed_ns, elapsed_ns, Output(stream, line))
        for position, (elapsed_ns, line) in enumerate(written, 1_001 - len(written))
    ]
    assert (record.first, record.count) == (1_001 - len(written), len(written))


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", bytes(range(256)), "⏺ Read(src/cart.py)\r\n".encode(), "é".encode()[:1], "é".encode()[1:], b"\x1b[3"],
    ids=repr,
)
def test_bytes_are_stored_as_read_whatever_they_are(data: bytes) -> None:
    assert stored_and_read(output(data)).data == data


def test_the_longest_line_comes_back() -> None:
    assert stored_and_read(output(b"x" * 65_536)).data == b"x" * 65_536


def stored_and_read(event: Output) -> Output:
    [record] = records_of(SESSION, 0, 0, [event])
    [recorded] = decode(1, encode(record)).events()
    assert isinstance(recorded.event, Output)
    return recorded.event


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        Record(SESSION, BEGAN_NS, 5, started()),
        Record(None, BEGAN_NS, 0, RulesChanged("d1", "version = 1\n")),
        output_record(SESSION, BEGAN_NS, "pty", [(5, [b"one\n", b"two\n"]), (9, [b"three"])]),
    ],
    ids=["session_started", "rules_changed", "output"],
)
def test_any_one_changed_byte_is_found(record: Record) -> None:
    value = encode(record)

    for index in range(len(value)):
        for change in range(1, 256):
            damaged = value[:index] + bytes([value[index] ^ change]) + value[index + 1 :]
            with pytest.raises(EventDecodeError):
                decode(1, damaged)


def test_a_record_cut_short_is_found_wherever_it_was_cut() -> None:
    value = encode(Record(SESSION, BEGAN_NS, 5, started()))

    for length in range(len(value)):
        with pytest.raises(EventDecodeError) as failure:
            decode(41, value[:length])
        assert failure.value.position == 41


def test_bytes_that_are_no_record_are_refused_although_their_checksum_is_right() -> None:
    for array in [
        [1, 8, SESSION, 0, 0, [8, 1, 2]],
        [1, 8, SESSION, "when", 0, [8, "a", "b"]],
        [1, 8, SESSION],
        [1] * 99,
    ]:
        with pytest.raises(EventDecodeError, match="not an event"):
            decode(1, sealed_value(array))


# -- other versions ------------------------------------------------------------------------------------------------


def test_a_type_this_program_does_not_know_is_kept_and_numbered() -> None:
    event = [99, "what is to come", {"depth": 3}]

    record = decode(41, sealed_value([1, 99, SESSION, BEGAN_NS, 5, event]))

    assert list(record.events()) == [Recorded(41, SESSION, BEGAN_NS, 5, Unknown(99, msgspec.msgpack.encode(event)))]


def test_a_newer_version_of_a_known_type_is_kept_and_not_misread() -> None:
    event = [8, ["label", "became", "a list"], "source"]

    record = decode(41, sealed_value([2, 8, SESSION, BEGAN_NS, 5, event]))

    assert record.event == Unknown(8, msgspec.msgpack.encode(event))


def test_what_is_not_understood_is_never_written() -> None:
    with pytest.raises(TypeError):
        encode(Record(SESSION, 0, 0, Unknown(99, b"\x90")))


def test_an_old_version_is_lifted_to_today_s_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a marker had once had no source, then an empty one."""
    old = sealed_value([1, 8, SESSION, BEGAN_NS, 5, [8, "label"]])
    monkeypatch.setitem(codec.VERSIONS, 8, 3)
    monkeypatch.setitem(codec.UPCASTERS, (8, 1), lambda array: [*array[:5], [*array[5], ""]])
    monkeypatch.setitem(codec.UPCASTERS, (8, 2), lambda array: [*array[:5], [8, array[5][1], array[5][2] or "unknown"]])

    assert decode(1, old) == Record(SESSION, BEGAN_NS, 5, Marker("label", "unknown"), last=1)
    assert decode(1, encode(Record(SESSION, 0, 0, Marker("new", "me")))).event == Marker("new", "me")


def test_a_field_appended_later_has_its_default_in_old_records() -> None:
    old = sealed_value([1, 5, SESSION, BEGAN_NS, 5, [5, "starting", "running", "started"]])

    assert decode(1, old).event == StateChanged("starting", "running", "started", pid=None)


def test_fields_that_a_newer_program_appended_are_passed_over() -> None:
    newer = [1, 8, SESSION, BEGAN_NS, 5, [8, "label", "me", "a field to come"], "an envelope's field to come"]
    unknown = [1, 99, SESSION, BEGAN_NS, 5, [99], "an envelope's field to come"]

    assert decode(1, sealed_value(newer)).event == Marker("label", "me")
    assert decode(1, sealed_value(unknown)).event == Unknown(99, b"\x91\x63")


# -- runs ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 5))
def test_what_of_a_run_lies_after_a_position_is_the_events_after_it(shape: list[int], before: int) -> None:
    reads = [(index * 10, [b"%d.%d\n" % (index, line) for line in range(size)]) for index, size in enumerate(shape)]
    record = output_record(SESSION, BEGAN_NS, "pty", reads, last=before + sum(shape))
    events = list(record.events())

    for position in range(before + sum(shape) + 2):
        rest = record.after(position)
        assert (events_of([rest]) if rest else []) == [event for event in events if event.position > position]


def test_what_of_a_single_event_lies_after_a_position_is_all_or_nothing() -> None:
    record = Record(SESSION, 0, 0, Marker("label", "me"), last=5)

    assert [record.after(position) for position in (3, 4, 5, 6)] == [record, record, None, None]


@given(st.lists(outputs | EVENTS[Marker] | EVENTS[Gap], max_size=12))
def test_events_of_one_moment_become_runs_and_come_back_in_their_order(events: list[Event]) -> None:
    records = records_of(SESSION, BEGAN_NS, 5, events)

    assert [event for record in records for event in of(record)] == events
    for one, following in pairwise(records):
        streams = {record.event.stream for record in (one, following) if isinstance(record.event, codec.OutputRun)}
        either_is_no_run = not all(isinstance(record.event, codec.OutputRun) for record in (one, following))
        assert either_is_no_run or len(streams) == 2  # neighbours of one stream share a run


def of(record: Record) -> list[Event]:
    record.last = record.count
    return [recorded.event for recorded in record.events()]


sessions = st.sampled_from(["a-1", "a-1-2", "a-10", "a", "b" * 31, "b" * 32, "b" * 80]) | texts


@given(sessions, sessions, outputs | EVENTS[Marker])
def test_a_record_is_known_for_its_session_s_without_being_decoded(session: str, other: str, event: Event) -> None:
    [record] = records_of(session, BEGAN_NS, 5, [event])

    assert is_of(encode(record), session_prefix(session))
    assert is_of(encode(record), session_prefix(other)) == (session == other)


def test_what_concerns_the_whole_log_is_no_session_s() -> None:
    [record] = records_of(None, BEGAN_NS, 0, [RulesChanged("d1", "")])

    assert not is_of(encode(record), session_prefix(""))
