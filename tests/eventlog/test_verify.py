"""verify finds each broken promise once, where it is, and goes on behind it; a healthy log has no finding."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from xxhash import xxh32_digest

from eventlog import verify as module
from eventlog.codec import Record, output_record
from eventlog.errors import EventLogError
from eventlog.events import Command, Gap, Marker, RulesChanged, StateChanged
from eventlog.prune import Doomed, Plan, plan, prune
from eventlog.segment import pack_position
from eventlog.store import Store
from eventlog.verify import Progress, check, verify
from tests.eventlog.maintenance_helpers import (
    BEGAN_NS,
    SECOND_NS,
    TINY_CAP,
    A,
    B,
    append,
    change_row,
    cut,
    data_file,
    ended,
    event,
    exited,
    findings,
    flip,
    log_of,
    log_of_segments,
    output,
    promises,
    raw,
    replace,
    running,
    spoil_roots,
    started,
    whole_session,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


# -- health --------------------------------------------------------------------------------------------------------


def test_a_log_of_several_sessions_and_segments_keeps_its_promises(log: Path) -> None:
    """Two sessions in turns, every kind of record, roll-overs between."""
    first, second = whole_session(A, lines=60), whole_session(B, lines=60)
    both = [record for pair in zip(first, second, strict=True) for record in pair]
    extra = [
        event(None, 0, RulesChanged("d1", "text")),
        event(A, 6, Marker("here", "me")),
        event(A, 6, Gap("pty", 9, "x")),
        event(B, 6, Command("1", "kill", {}, "me")),
    ]
    with Store(log, cap_bytes=65_000) as store:
        for number in range(0, len(both), 8):
            append(store, both[number : number + 8] + (extra if number == 8 else []))
        assert len(store.segments()) > 2
        head = store.head()

    items = list(check(log))

    assert [item for item in items if not isinstance(item, Progress)] == []
    assert max(item.position for item in items if isinstance(item, Progress)) <= head
    assert verify(log) == []


def test_an_event_of_a_newer_program_is_no_finding(log: Path) -> None:
    body = msgspec.msgpack.encode([1, 99, A, BEGAN_NS, 0, [99, "later"]])
    log_of(log, [started(), running(), event(A, 0, Marker("", ""))])

    replace(log, 3, body + xxh32_digest(body))

    assert findings(log) == []


def test_a_place_without_a_log_is_an_error_and_no_finding(tmp_path: Path) -> None:
    with pytest.raises(EventLogError, match="no log"):
        verify(tmp_path)


def test_progress_reaches_the_head_and_the_child_says_as_much_as_the_walk(log: Path) -> None:
    log_of_segments(log, 3)
    flip(data_file(log), b"00003 of 3000000000\n")
    told: list[Progress] = []

    found = verify(log, told.append)

    assert found == findings(log)
    assert len(found) == 1
    assert told == [item for item in check(log) if isinstance(item, Progress)]
    assert [progress.segment for progress in told][-1] == told[-1].segment == max(p.segment for p in told)


def test_an_error_of_the_listener_ends_the_child_too(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_of(log, whole_session())
    slow = "import sys, time; from eventlog import verify; verify.main(sys.argv[1:]); time.sleep(20)"
    monkeypatch.setattr(module, "CHILD", [sys.executable, "-c", slow])
    began_s = time.monotonic()

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(log, stop)

    assert time.monotonic() - began_s < 15


# -- one record ----------------------------------------------------------------------------------------------------


def test_a_flipped_bit_is_one_finding_and_the_records_behind_it_are_checked(log: Path) -> None:
    """Neither the gap it leaves nor the totals it spoils are findings of their own."""
    positions = log_of(log, whole_session(A) + whole_session(B))
    flip(data_file(log), b"00000003\r\n")  # in both sessions

    assert promises(findings(log)) == [(positions[4], "checksum"), (positions[18], "checksum")]


def test_damage_in_one_session_does_not_hide_wrong_totals_of_another(log: Path) -> None:
    records = whole_session(A)
    records[2:2] = [started(B), running(B), output(1, b"x\n", session=B)]
    records[7:7] = [exited(2, 7, 7, B), ended(2, B)]
    positions = log_of(log, records)
    flip(data_file(log), b"00000001\r\n")

    assert promises(findings(log)) == [(positions[5], "checksum"), (positions[7], "totals")]


def test_damage_behind_a_session_leaves_what_is_known_of_it(log: Path) -> None:
    positions = log_of(log, whole_session(A) + whole_session(B))
    change_row(log, A, lines=1)
    with raw(log) as put:
        put(positions[16], None)  # it is not told whose

    assert promises(findings(log)) == [(positions[15] + 1, "positions"), (positions[13], "table")]


def test_a_damaged_last_record_is_not_also_a_wrong_row(log: Path) -> None:
    positions = log_of(log, whole_session())
    with raw(log) as put:
        put(positions[-1], b"nonsense")

    assert promises(findings(log)) == [(positions[-1], "checksum")]


def test_a_damaged_beginning_is_not_also_a_session_that_never_started(log: Path) -> None:
    positions = log_of(log, whole_session(A) + whole_session(B))
    with raw(log) as put:
        value = put(positions[14])
        assert value is not None
        put(positions[14], value[:-1] + bytes([value[-1] ^ 1]))

    assert promises(findings(log)) == [(positions[14], "checksum")]


@pytest.mark.parametrize(
    "body",
    [
        [1, 2, A, BEGAN_NS, 0, [2, "pty"]],
        [1, 2, A, BEGAN_NS, 0, [2, "tty", [[0, [b"x"]]]]],
        [1, 2, A, BEGAN_NS, 0, [2, "pty", []]],
        [1, 5, A, "now", 0, [5, "running", "exited", "", None]],
        "no array at all",
    ],
)
def test_a_record_whose_checksum_is_right_but_that_says_nothing_is_found(log: Path, body: object) -> None:
    positions = log_of(log, whole_session())
    value = msgspec.msgpack.encode(body)

    replace(log, positions[4], value + xxh32_digest(value))

    assert promises(findings(log)) == [(positions[4], "decoding")]


def test_a_missing_record_is_one_finding_at_the_first_missing_position(log: Path) -> None:
    positions = log_of(log, whole_session())
    with raw(log) as put:
        put(positions[4], None)

    [finding] = findings(log)

    assert (finding.position, finding.promise) == (positions[3] + 1, "positions")
    assert finding.detail == "7 to 8 are missing"


def test_a_missing_last_record_of_a_sealed_segment_is_found(log: Path) -> None:
    _, second, _ = log_of_segments(log, 3)
    with raw(log) as put:
        put(second - 1, None)

    assert promises(findings(log)) == [(second - 10, "positions")]


def test_swapped_records_are_found_by_their_time(log: Path) -> None:
    positions = log_of(log, whole_session())
    with raw(log) as put:
        one, other = put(positions[4]), put(positions[5])
        put(positions[4], other)
        put(positions[5], one)

    assert promises(findings(log)) == [(positions[4] + 1, "elapsed")]


def test_swapped_records_of_different_length_leave_a_gap_and_an_overlap(log: Path) -> None:
    positions = log_of(
        log, [started(), running(), output(1, b"1\n"), output(1, b"2\n", b"3\n", b"4\n"), output(2, b"5")]
    )
    with raw(log) as put:
        one, other = put(positions[2]), put(positions[3])
        put(positions[2], other)
        put(positions[3], one)

    assert promises(findings(log)) == [(1, "positions"), (4, "positions")]


def test_a_record_that_is_too_long_for_its_place_is_one_finding(log: Path) -> None:
    log_of(log, [started(), running(), output(1, b"1\n"), output(1, b"2\n")])

    replace(log, 4, output(1, b"1\n", b"2\n"))

    assert promises(findings(log)) == [(3, "positions")]


# -- sessions ------------------------------------------------------------------------------------------------------


def without(index: int) -> Callable[[list[Record]], list[Record]]:
    return lambda records: records[:index] + records[index + 1 :]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param(without(0)(whole_session()), [(1, "started_first")], id="never started"),
        pytest.param([*whole_session(lines=10), started()], [(15, "started_first")], id="started twice"),
        pytest.param([*whole_session(lines=10), exited(6, 10, 100)], [(15, "exited_once")], id="exited twice"),
        pytest.param(
            [*whole_session(lines=10), output(6, b"late\n"), output(7, b"later\n")],
            [(15, "exited_last")],
            id="output after the exit",
        ),
        pytest.param(
            [started(), running(), output(1, b"x\n"), exited(2, 1, 3), ended(2)], [(4, "totals")], id="wrong bytes"
        ),
        pytest.param(
            [started(), running(), output(1, b"x\n"), exited(2, 2, 2), ended(2)], [(4, "totals")], id="wrong lines"
        ),
        pytest.param(
            [started(), running(), output(9, b"x\n"), output(8, b"y\n"), output(8, b"z\n")],
            [(4, "elapsed")],
            id="output goes back in time",
        ),
        pytest.param(
            [started(), running(), output(9, b"x\n"), event(A, 8, Marker("", "")), output(9, b"y\n")],
            [(4, "elapsed")],
            id="a marker goes back in time",
        ),
        pytest.param(
            [started(), running(), output_record(A, BEGAN_NS, "pty", [(5, [b"a\n", b"b\n"]), (4, [b"c\n"])])],
            [(5, "elapsed")],
            id="a read goes back in time within its run",
        ),
        pytest.param(
            [started(), running(), output(1, b"one\n", b"two\nthree\n", b"four\n")], [(4, "one_line")], id="two lines"
        ),
        pytest.param(
            [started(), running(), output(1, b"one\n", b"two\nthree")], [(4, "one_line")], id="a line and a half"
        ),
        pytest.param(
            [started(), running(), output(1, b"x" * 65_536, b"x" * 65_537)], [(4, "one_line")], id="over 64 KiB"
        ),
        pytest.param(
            [started(), running(), event(A, 1, StateChanged("paused", "running", ""))], [(3, "states")], id="states"
        ),
        pytest.param(
            [started(), event(A, 1, StateChanged("running", "exited", ""))], [(2, "states")], id="never running"
        ),
    ],
)
def test_a_broken_promise_of_a_session_is_found(
    log: Path, records: list[Record], expected: list[tuple[int, str]]
) -> None:
    log_of(log, records)

    assert promises(findings(log)) == expected


def test_fragments_and_empty_lines_are_lines(log: Path) -> None:
    log_of(log, [started(), running(), output(1, b"frag", b"ment\n", b"\n", b"\r\n", b"x" * 65_536, b"\xff")])

    assert findings(log) == []


def test_the_session_table_is_compared_with_the_fold_of_the_events(log: Path) -> None:
    log_of(log, whole_session(A, lines=10) + whole_session(B, lines=10))
    change_row(log, A, lines=11, state="killed")

    [finding] = findings(log)

    assert (finding.position, finding.promise) == (14, "table")
    assert "lines 11" in finding.detail
    assert "state killed" in finding.detail


def test_a_row_without_events_and_events_without_a_row_are_found(log: Path) -> None:
    log_of(log, whole_session(A, lines=10) + whole_session(B, lines=10))
    with raw(log, table=b"sessions") as put:
        value = put(A)
        put(A, None)
        put("c-20261122-101500", value)

    assert sorted(promises(findings(log))) == [(14, "table"), (14, "table")]


def test_a_session_whose_beginning_was_pruned_is_checked_from_there(log: Path) -> None:
    log_of_segments(log, 3)
    with Store(log, cap_bytes=TINY_CAP) as store:
        prune(store, plan(store, now_ns=0, keep_bytes=0, is_running=lambda row: False))
        assert len(store.segments()) == 1
    assert findings(log) == []

    with Store(log) as store:
        [position] = append(store, [output(1, b"long ago\n")])

    assert promises(findings(log)) == [(position, "elapsed")]


def test_a_session_of_which_only_the_row_is_left_is_no_finding(log: Path) -> None:
    """All its events were pruned, or stand in a segment that cannot be read."""
    with Store(log) as store:
        for number, session in enumerate([A, B, "c-20261122-101500"], 1):
            if number > 1:
                with store.live() as segment:
                    segment.seal()
            append(store, whole_session(session))
        _, second, _ = store.segments()
        prune(store, Plan([Doomed(1, second - 1, 0, 0)], [], [], second, ""))
    assert findings(log) == []

    cut(data_file(log, second), 8_192)

    assert promises(findings(log)) == [(second, "segments")]


@pytest.mark.parametrize(
    "value", [None, b"\xc1", msgspec.msgpack.encode((4_096, 1)), msgspec.msgpack.encode((4_095, 2))]
)
def test_an_index_that_passes_over_a_part_of_a_session_is_found(log: Path, value: bytes | None) -> None:
    """Who reads this session alone would not see its second half, or would come too late."""
    log_of(log, [started(), running(), *[output(1, *[b"\n"] * 1_023) for _ in range(8)]])
    assert findings(log) == []
    key = A.encode() + b"\0" + pack_position(1)
    with raw(log, table=b"blocks") as put:
        assert put(key) == msgspec.msgpack.encode((4_095, 1))  # the run from 4,095 to 5,117 ends in block 1
        put(key, value)

    assert promises(findings(log)) == [(4_095, "index")]


# -- segments ------------------------------------------------------------------------------------------------------


def remove(log: Path, first: int) -> None:
    for path in data_file(log, first).parent.iterdir():
        path.unlink()
    data_file(log, first).parent.rmdir()


def test_a_missing_segment_is_a_break_in_the_chain(log: Path) -> None:
    _, second, third, _ = log_of_segments(log, 4)
    remove(log, third)

    [finding] = findings(log)

    assert (finding.position, finding.promise) == (third, "segments")
    assert f"{third}" in finding.detail
    assert second < third


def test_a_segment_that_was_never_sealed_is_found(log: Path) -> None:
    _, second, _ = log_of_segments(log, 3)
    with raw(log, table=b"meta") as put:
        put("sealed", None)

    assert promises(findings(log)) == [(second, "segments")]


def test_a_newest_segment_that_is_sealed_and_has_no_next_is_as_it_should_be(log: Path) -> None:
    """A writer may die between the two; whoever writes next goes on."""
    log_of(log, whole_session())
    with Store(log) as store, store.live() as segment:
        segment.seal()

    assert findings(log) == []


@pytest.mark.parametrize(("key", "row"), [(A, b"no row"), (B, b""), ("\udcff", b"")])
def test_a_session_table_that_cannot_be_read_does_not_stop_the_walk(log: Path, key: str, row: bytes) -> None:
    positions = log_of(log, whole_session(A))
    flip(data_file(log), b"00000003\r\n")
    with raw(log, table=b"sessions") as put:
        put(key, row)

    assert promises(findings(log)) == [(1, "table"), (positions[4], "checksum")]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("log", 5, "its header is missing"),
        ("cap", b"\xc1", "its header is damaged"),
        ("first", 7, "its header says it begins at 7"),
        ("format", 99, "the log has format 99"),
        ("log", "another", "it is of another log"),
    ],
)
def test_a_header_that_does_not_fit_is_found(log: Path, key: str, value: object, words: str) -> None:
    _, second, _ = log_of_segments(log, 3)
    with raw(log, second, b"meta") as put:
        put(key, value if isinstance(value, bytes) else msgspec.msgpack.encode(value))

    [finding] = findings(log)

    assert (finding.position, finding.promise) == (second, "segments")
    assert words in finding.detail


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: cut(path, 0),
    "a hundred bytes": lambda path: cut(path, 100),
    "one page": lambda path: cut(path, 4_096),
    "no more than its header": lambda path: cut(path, 8_192),
    "half": lambda path: cut(path, path.stat().st_size // 2),
    "one byte short": lambda path: cut(path, path.stat().st_size - 1),
    "garbage": lambda path: (path.write_bytes(random.Random(1).randbytes(50_000)), None)[1],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", [1, 2])
def test_an_unreadable_segment_is_one_finding_and_the_others_are_checked(log: Path, damage: str, which: int) -> None:
    """Also the newest, which takes the session table with it; and nothing is written to what is left."""
    firsts = log_of_segments(log, 3)
    flip(data_file(log), b"00003 of 3000000000\n")
    [flipped] = findings(log)
    path = data_file(log, firsts[which])

    DAMAGES[damage](path)
    left = path.read_bytes() if path.exists() else None

    assert promises(findings(log)) == [(flipped.position, "checksum"), (firsts[which], "segments")]
    assert (path.read_bytes() if path.exists() else None) == left


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_tree_whose_root_is_damaged_is_one_finding(log: Path, which: int) -> None:
    """LMDB opens such a file and fails at the first read."""
    firsts = log_of_segments(log, 3)
    spoil_roots(data_file(log, firsts[which]), b"events")

    [finding] = verify(log)

    assert (finding.position, finding.promise) == (firsts[which], "segments")
    assert "MDB_CORRUPTED" in finding.detail


def test_a_truncated_segment_is_named_with_how_far_it_can_be_read(log: Path) -> None:
    log_of_segments(log, 2)
    cut(data_file(log), data_file(log).stat().st_size * 3 // 4)
    with Store(log) as store, store.using(1) as segment:
        head = segment.head()

    [finding] = verify(log)

    assert finding.detail.startswith("truncated: data.mdb has ")
    assert finding.detail.endswith(f"; readable up to {head}")
    assert head > 30


def test_a_page_that_kills_its_reader_is_a_finding_and_a_new_child_checks_the_rest(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGBUS: the child is kept from noticing that the file is short, as it would be cut while it is read."""
    _, second, third = log_of_segments(log, 3)
    flip(data_file(log, third), b"00003 of ")
    damaged = promises(findings(log))
    assert [promise for _, promise in damaged] == ["checksum"] * len(damaged)
    assert damaged
    cut(data_file(log, second), 8_192)
    blind = """
import sys, eventlog.segment as segment, eventlog.verify as verify
segment.Segment._refuse_truncated = lambda self, data: None
sys.exit(verify.main(sys.argv[1:]))
"""
    monkeypatch.setattr(module, "CHILD", [sys.executable, "-c", blind])

    found = verify(log)

    assert promises(found) == [(second, "segments"), *damaged]
    assert "SIGBUS" in found[0].detail
    assert f"segment {second} " in found[0].detail


# -- a log that is in use ------------------------------------------------------------------------------------------


def test_a_log_that_is_written_rolled_over_and_pruned_meanwhile_verifies_clean(log: Path) -> None:
    """What comes after the head of the beginning is not looked at, and what retention takes is not missed."""
    stop = threading.Event()
    log_of_segments(log, 4)
    with Store(log, cap_bytes=TINY_CAP) as store:

        def write() -> None:
            elapsed_ns = 1_000 * SECOND_NS
            while not stop.is_set():
                elapsed_ns += SECOND_NS
                append(store, [output(elapsed_ns, *[b"%d" % n + b"." * 500 + b"\n" for n in range(20)])])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for round_ in range(3):
                before = store.head()
                assert verify(log, lambda progress: None) == []
                if round_ == 1:
                    prune(store, plan(store, now_ns=0, keep_bytes=2_000_000, is_running=lambda row: False))
            assert store.head() > before
        finally:
            stop.set()
            writer.join()
        assert len(store.segments()) > 2


def test_a_segment_that_retention_takes_before_it_is_read_is_no_finding(log: Path) -> None:
    """The walk has listed four segments, then the two oldest go; a session of theirs lives on."""
    firsts = log_of_segments(log, 4)
    walk = check(log)
    next(walk)

    for first in firsts[:2]:
        remove(log, first)

    assert [item for item in walk if not isinstance(item, Progress)] == []


def test_a_row_that_was_folded_over_several_openings_equals_the_fold_of_all_events(log: Path) -> None:
    records = whole_session(A, lines=10)
    for part in (records[:4], records[4:7], records[7:]):
        with Store(log) as store:
            append(store, part)
    assert findings(log) == []

    replace(log, 4, output(1, b"00000001\r\n", b"0000001 \n"))  # a byte is missing, with a right checksum

    assert sorted(promises(findings(log))) == [(13, "totals"), (14, "table")]
