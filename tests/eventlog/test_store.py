"""The chain of segments behaves as one file: gapless, readable from anywhere, rolled over by whoever finds it full."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import lmdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import segment as segment_module
from eventlog import store as store_module
from eventlog.codec import OutputRun
from eventlog.errors import EventDecodeError, EventLogError, LogFormatError, LogRefusedError
from eventlog.events import Gap, Marker, Recorded, RulesChanged, Unknown
from eventlog.segment import FORMAT, Segment, pack_position, segment_name
from eventlog.store import OPEN_SEGMENTS, Store, refuse_remote
from tests.eventlog.helpers import (
    BEGAN_NS,
    PATIENCE_S,
    SESSION,
    TINY_CAP_BYTES,
    append,
    append_line,
    events_of,
    everything,
    gapless,
    lines_of,
    numbered_line,
    numbers,
    output,
    positions_of,
    running,
    started,
    stored,
    stored_array,
    stored_run,
    write_lines,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "log", cap_bytes=TINY_CAP_BYTES) as store:
        yield store


def fill(store: Store, segments: int, session: str = SESSION) -> None:
    """Record numbered lines until there are so many segments."""
    if store.session(session) is None:
        append(store, session, started())
    number = len(lines_of(everything(store, session=session)))
    while len(store.segments()) < segments:
        append(store, session, *[output(numbered_line(session, number + i)) for i in range(50)], elapsed_ns=number)
        number += 50


# -- positions -----------------------------------------------------------------------------------------------------


def test_the_first_event_of_a_log_has_position_1(store: Store) -> None:
    assert (store.first, store.head()) == (1, 0)
    assert append(store, SESSION, started()) == [1]
    assert store.head() == 1


def test_every_line_has_a_position_of_its_own_and_an_append_answers_its_records_last_ones(store: Store) -> None:
    assert append(store, SESSION, started(), output(b"a\n"), output(b"b\n"), output(b"c", "stderr")) == [1, 3, 4]


def test_appends_committed_together_are_numbered_in_their_order(store: Store) -> None:
    answers = store.append([stored(SESSION, started()), [], stored(SESSION, output(b"a\n"), output(b"b\n"))])

    assert answers == [[1], [], [3]]


def test_positions_go_on_without_a_gap_through_roll_overs(store: Store) -> None:
    fill(store, segments=5)

    events = everything(store)

    assert gapless(events)
    assert len(events) == store.head()
    assert numbers(SESSION, lines_of(events))


def test_reading_after_any_position_gives_what_lies_after_it(store: Store) -> None:
    """Also from the middle of a run, and across the borders of segments."""
    append(store, SESSION, started())
    while len(store.segments()) < 3:
        reads = [(n, [b"%d.%d" % (n, i) + b"." * 900 for i in range(n)]) for n in (1, 3, 2)]
        store.append([stored_run(SESSION, *reads), stored(SESSION, Marker("between", "me"))])
    events = everything(store)

    for after in range(store.head() + 1):
        assert everything(store, after) == events[after:]
        assert everything(store, after, session=SESSION) == events[after:]


def test_a_page_ends_where_it_is_full_and_the_next_begins_there(store: Store) -> None:
    fill(store, segments=3)

    assert everything(store, max_bytes=1) == everything(store)
    assert len(store.read(0, max_bytes=1).records) == 1


def test_there_is_nothing_after_the_head(store: Store) -> None:
    fill(store, segments=2)

    page = store.read(store.head())

    assert (page.records, page.position) == ([], store.head())


def test_records_end_at_the_head_found_at_the_start(store: Store) -> None:
    append(store, SESSION, started(), output(b"one\n"))

    found = []
    for record in store.records():
        found += list(record.events())
        append(store, SESSION, output(b"meanwhile\n"))

    assert positions_of(found) == [1, 2]


def test_records_can_be_of_some_kinds_only(store: Store) -> None:
    append(store, SESSION, started(), output(b"a\n"), Marker("m", "me"), output(b"b\n"), Gap("pty", 3, "why"))

    found = [record.event for record in store.records(kinds=[OutputRun, Gap])]

    assert found == [OutputRun("pty", [(0, [b"a\n"])]), OutputRun("pty", [(0, [b"b\n"])]), Gap("pty", 3, "why")]


def test_an_event_of_a_newer_program_is_kept_and_numbered(store: Store) -> None:
    store.append([stored(SESSION, started()), [stored_array([1, 99, SESSION, 5, 5, [99, "news"]])]])
    append(store, SESSION, output(b"after\n"))

    assert [(e.position, type(e.event)) for e in everything(store)][1] == (2, Unknown)
    assert positions_of(everything(store, session=SESSION)) == [1, 2, 3]


# -- what a session's filter and a time find, against brute force --------------------------------------------------

SESSIONS = ["a-1", "a-1-2", "b-1", "c-1"]
batches = st.lists(
    st.lists(st.tuples(st.sampled_from(SESSIONS), st.integers(1, 7), st.integers(0, 3)), min_size=1, max_size=4),
    min_size=1,
    max_size=14,
)


def recorded(directory: Path, history: list[list[tuple[str, int, int]]]) -> Store:
    """A log of *history*, each list of (session, lines, time that passes) a commit, in several segments."""
    store = Store(directory, cap_bytes=TINY_CAP_BYTES)
    clocks: dict[str, int] = {}
    for batch in history:
        builds = []
        for session, lines, passes in batch:
            if session not in clocks:
                builds.append(stored(session, started(session.split("-")[0])))
            elapsed_ns = clocks[session] = clocks.get(session, 0) + passes
            builds.append(stored(session, *[output(b"x" * 1_500)] * lines, elapsed_ns=elapsed_ns))
        store.append(builds)
    return store


@settings(max_examples=25)
@given(batches, st.data())
def test_a_session_s_events_are_found_through_the_index_as_by_looking_at_all(
    history: list[list[tuple[str, int, int]]], data: st.DataObject
) -> None:
    with small_blocks(), tempfile.TemporaryDirectory() as directory, recorded(Path(directory), history) as store:
        events = everything(store)
        assert gapless(events)
        after = data.draw(st.integers(0, store.head()))
        max_bytes = data.draw(st.sampled_from([1, 4_000, 1 << 20]))
        for session in [*SESSIONS, "never-1"]:
            expected = [e for e in events if e.session == session and e.position > after]
            assert everything(store, after, session, max_bytes) == expected


@settings(max_examples=25)
@given(batches, st.data())
def test_a_time_in_a_session_is_found_without_missing_what_comes_at_it(
    history: list[list[tuple[str, int, int]]], data: st.DataObject
) -> None:
    with small_blocks(), tempfile.TemporaryDirectory() as directory, recorded(Path(directory), history) as store:
        events = everything(store)
        for session in SESSIONS:
            own = [e for e in events if e.session == session]
            elapsed_ns = data.draw(st.integers(0, own[-1].elapsed_ns + 1 if own else 1))
            begin = store.session_start(session, elapsed_ns)
            wanted = [e for e in own if e.elapsed_ns >= elapsed_ns]
            read = everything(store, begin, session)
            assert [e for e in read if e.elapsed_ns >= elapsed_ns] == wanted
            assert blocks_before(read, elapsed_ns) <= 2, "it begins more than a block too early"


@contextmanager
def small_blocks() -> Iterator[None]:
    """Blocks of 8 positions: 4,096 would make one of all that a test writes."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (segment_module, store_module):
            patch.setattr(module, "BLOCK_SHIFT", 3)
        yield


def blocks_before(read: list[Recorded], elapsed_ns: int) -> int:
    return len({event.position >> 3 for event in read if event.elapsed_ns < elapsed_ns})


# -- roll-over -----------------------------------------------------------------------------------------------------


def test_a_full_segment_is_sealed_and_the_next_begins_where_it_ends(store: Store) -> None:
    fill(store, segments=4)

    for first, following in pairwise(store.segments()):
        with store.using(first) as segment:
            assert (segment.first, segment.sealed(), segment.head()) == (first, following, following - 1)


def test_a_segment_whose_writer_died_before_it_made_the_next_is_continued_by_anyone(store: Store) -> None:
    append(store, SESSION, started(), output(b"last\n"))
    with store.live() as segment:
        segment.seal()

    assert (store.head(), store.read(2).records, store.segments()) == (2, [], [1])
    assert append(store, SESSION, output(b"first\n")) == [3]
    assert store.segments() == [1, 3]
    assert lines_of(everything(store)) == [b"last\n", b"first\n"]


def test_reading_a_log_makes_no_segment(store: Store) -> None:
    """A reader must get its answer on a full disk too."""
    append(store, SESSION, started())
    with store.live() as segment:
        segment.seal()

    assert (store.head(), len(store.sessions()), store.session(SESSION) is None) == (1, 1, False)
    assert store.segments() == [1]


def test_an_empty_newest_segment_is_written_to_and_not_sealed(store: Store) -> None:
    append(store, SESSION, started())
    with store.live() as segment:
        segment.seal()
    with store.live() as empty:  # as if its maker had died before its first commit
        assert (empty.first, empty.head()) == (2, 1)

    assert append(store, SESSION, output(b"on\n")) == [2]
    assert store.segments() == [1, 2]


def test_a_segment_so_small_that_one_event_fills_it_holds_one(tmp_path: Path) -> None:
    with Store(tmp_path, cap_bytes=1) as store:
        for number in range(5):
            append(store, None, RulesChanged(str(number), ""))

        assert store.segments() == [1, 2, 3, 4, 5]
        assert gapless(everything(store))


def test_a_batch_larger_than_what_is_left_of_the_map_goes_into_the_next_segment(store: Store) -> None:
    """map_size is 64 MiB at least, and a commit that does not fit is no error."""
    append(store, SESSION, started())
    store.append([stored(SESSION, *[output(b"x" * 60_000)] * 100)] * 6)  # 36 MB
    with store.live() as segment:
        segment.cap_bytes = 1 << 40  # as if it were not full yet

    store.append([stored(SESSION, *[output(b"y" * 60_000)] * 100)] * 6)

    assert store.segments() == [1, 602]
    assert gapless(everything(store))


def test_a_batch_larger_than_any_map_is_refused_and_nothing_of_it_is_written(store: Store) -> None:
    append(store, SESSION, started())

    with pytest.raises(lmdb.MapFullError):
        store.append([stored(SESSION, *[output(b"x" * 60_000)] * 100)] * 12)  # 72 MB

    assert store.head() == 1
    assert append(store, SESSION, output(b"goes on\n")) == [2]


def test_the_session_table_goes_along_into_every_next_segment(store: Store) -> None:
    for number in range(3):
        append(store, f"early-{number}", started("early"))
    fill(store, segments=4)

    assert [row.session for row in store.sessions()] == ["early-0", "early-1", "early-2", SESSION]
    with store.live() as newest:
        assert newest.session("early-1") == store.session("early-1")


def test_more_segments_than_are_kept_open_can_be_read(tmp_path: Path) -> None:
    with Store(tmp_path, cap_bytes=1) as store:
        for number in range(OPEN_SEGMENTS * 2 + 3):
            append(store, None, RulesChanged(str(number), ""))

        for _ in range(2):
            assert gapless(everything(store))
        assert len(store._open) <= OPEN_SEGMENTS
        for after in (OPEN_SEGMENTS * 2, 0, OPEN_SEGMENTS, 1):
            assert store.read(after).records[0].first == after + 1


def test_a_segment_in_use_is_not_closed_when_many_others_are_opened(tmp_path: Path) -> None:
    with Store(tmp_path, cap_bytes=1) as store:
        for number in range(OPEN_SEGMENTS * 2):
            append(store, None, RulesChanged(str(number), ""))

        with store.using(1) as segment:
            everything(store)
            assert segment.head() == 1


def test_a_log_whose_oldest_segments_are_gone_begins_at_the_first_that_is_kept(store: Store) -> None:
    fill(store, segments=4)
    _, second, third, _ = store.segments()
    events = everything(store)
    store.close()
    shutil.rmtree(store.directory / segment_name(1))
    shutil.rmtree(store.directory / segment_name(second))

    assert store.first == third
    assert everything(store) == events[third - 1 :]
    assert everything(store, session=SESSION) == events[third - 1 :]
    assert store.session(SESSION) is not None


def test_a_writer_goes_on_although_the_segment_it_knew_was_deleted(store: Store) -> None:
    """It slept while others rolled over and pruned."""
    append(store, SESSION, started())
    with running(write_lines, store.directory, "other", 2_000, TINY_CAP_BYTES) as writer:
        writer.join(PATIENCE_S)
        assert writer.exitcode == 0
    for first in store.segments()[:-1]:
        shutil.rmtree(store.directory / segment_name(first))
    everything(store)
    head = store.head()

    assert append(store, SESSION, output(b"awake\n")) == [head + 1]


# -- what is refused, what is damaged ------------------------------------------------------------------------------


def test_a_log_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    Segment.create(tmp_path, 1, log_id="log-1", cap_bytes=1 << 20)
    env = lmdb.open(str(tmp_path / segment_name(1)), max_dbs=8)
    with env.begin(write=True) as txn:
        txn.put(b"format", msgspec.msgpack.encode(FORMAT + 1), db=env.open_db(b"meta", txn))
    env.close()

    with pytest.raises(LogFormatError) as refused:
        Store(tmp_path)

    assert refused.value.hint


def test_a_log_that_is_not_there_is_not_made_for_who_only_reads(tmp_path: Path) -> None:
    with pytest.raises(EventLogError):
        Store(tmp_path, create=False)

    assert list(tmp_path.iterdir()) == []


def test_a_new_log_s_directory_is_its_owner_s_alone(store: Store) -> None:
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert (store.directory / segment_name(1)).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", sorted(store_module.REMOTE_FILESYSTEMS))
def test_a_log_on_a_remote_file_system_is_refused_by_its_name(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(tmp_path, kind, monkeypatch)

    with pytest.raises(LogRefusedError, match=kind) as refused:
        Store(tmp_path / "home" / "log")

    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_log_beside_a_remote_file_system_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(tmp_path, "ext4", monkeypatch)

    refuse_remote(tmp_path / "log")


def mounted(path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mountinfo say that *path*'s device is a file system of *kind*, beside an NFS of another device."""
    device = path.stat().st_dev
    lines = [
        "22 1 0:9999 / /remote rw,relatime shared:1 - nfs4 server:/export rw",
        f"23 1 {os.major(device)}:{os.minor(device)} / /a\\040b rw,relatime shared:2 master:1 - {kind} source rw",
    ]
    real = Path.read_text

    def read_text(self: Path, *args: str) -> str:
        return "\n".join(lines) + "\n" if str(self) == "/proc/self/mountinfo" else real(self, *args)

    monkeypatch.setattr(Path, "read_text", read_text)


def test_what_stands_before_a_damaged_record_is_read_and_the_damage_is_named(store: Store) -> None:
    for line in (b"one\n", b"two\n", b"three\n"):
        append(store, SESSION, *([] if store.head() else [started()]), output(line))
    with store.live() as segment, segment._env.begin(write=True) as txn:
        value = txn.get(pack_position(3), db=segment._events)
        assert value is not None
        txn.put(pack_position(3), value[:-6] + b"\xff" + value[-5:], db=segment._events)

    assert positions_of(everything_until_damage(store)) == [1, 2]
    with pytest.raises(EventDecodeError) as damage:
        store.read(2)
    assert damage.value.position == 3
    assert lines_of(everything(store, after=3)) == [b"three\n"]


def everything_until_damage(store: Store) -> list[Recorded]:
    return [event for record in store.read(0).records for event in record.events()]


# -- with other processes ------------------------------------------------------------------------------------------


def test_several_processes_that_open_a_new_log_at_once_make_one(tmp_path: Path) -> None:
    names = ["one", "two", "three", "four"]
    with (
        running(write_lines, tmp_path / "log", names[0], 100, TINY_CAP_BYTES) as a,
        running(write_lines, tmp_path / "log", names[1], 100, TINY_CAP_BYTES) as b,
        running(write_lines, tmp_path / "log", names[2], 100, TINY_CAP_BYTES) as c,
        running(write_lines, tmp_path / "log", names[3], 100, TINY_CAP_BYTES) as d,
    ):
        for process in (a, b, c, d):
            process.join(PATIENCE_S)
            assert process.exitcode == 0

    with Store(tmp_path / "log", create=False) as store:
        events = everything(store)
        assert gapless(events)
        assert sorted(row.agent for row in store.sessions()) == sorted(names)
        for row in store.sessions():
            assert numbers(row.agent, lines_of(events, row.session))
        assert not [path.name for path in store.directory.iterdir() if path.name.startswith(".")]
        assert {store.log_id} == {log_id(store, first) for first in store.segments()}


def log_id(store: Store, first: int) -> str:
    with store.using(first) as segment:
        return segment.log_id


def test_the_row_of_a_session_that_another_process_changed_is_read_again(store: Store) -> None:
    """A recorder's rows are kept decoded: they must not hide what others append to its sessions."""
    append(store, SESSION, started())
    append(store, SESSION, output(b"mine\n"))
    with running(append_line, store.directory, SESSION, b"another's\n") as other:
        other.join(PATIENCE_S)
        assert other.exitcode == 0
    append(store, SESSION, output(b"mine again\n"))

    row = store.session(SESSION)
    assert row is not None
    assert (row.lines, row.bytes, row.started_at_ns) == (3, 26, BEGAN_NS)


def test_a_record_whose_session_cannot_be_read_any_more_is_named_and_not_passed_over(tmp_path: Path) -> None:
    """Its damaged name is no session's, so a reader of one session must not take it for another's."""
    with Store(tmp_path) as store:
        append(store, "agent-1", started())
        for line in (b"a\n", b"b\n", b"c\n"):
            append(store, "agent-1", output(line))
        append(store, "agent-2", output(b"d\n"))
        with store.live() as segment, segment.write() as txn:
            damaged = bytearray(segment.value(3))
            damaged[5] ^= 0x20
            txn._txn.put((3).to_bytes(8, "big"), bytes(damaged), db=segment._events)

        assert lines_of(events_of(store.read(0, session="agent-1").records)) == [b"a\n"]
        with pytest.raises(EventDecodeError) as caught:
            store.read(2, session="agent-1")
        assert caught.value.position == 3
