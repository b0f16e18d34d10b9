"""Retention takes whole segments, oldest first, never the newest, and nothing of a running session's last day."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from eventlog.codec import output_record
from eventlog.decisions import start
from eventlog.errors import EventDecodeError
from eventlog.events import RulesChanged, SessionStarted
from eventlog.prune import DAY_NS, Plan, disk_bytes, plan, prune, retention_lock
from eventlog.segment import segment_name
from eventlog.store import Store
from tests.eventlog.maintenance_helpers import (
    BEGAN_NS,
    SECOND_NS,
    TINY_CAP,
    A,
    B,
    append,
    contents,
    cut,
    data_file,
    elsewhere,
    ended,
    event,
    exited,
    findings,
    log_of_segments,
    output,
    running,
    started,
)

HOUR_NS = 3_600 * SECOND_NS
C = "c-20261122-101500"
FILLING = b"." * 1_000 + b"\n"  # two hundred of them fill a segment


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def roll_over(store: Store) -> int:
    """Begin a new segment; its first position."""
    with store.live() as segment:
        segment.seal()
    with store.live() as segment:
        return segment.first


def hourly_log(store: Store, hours: int, session: str = A) -> list[int]:
    """One running session, a segment an hour; their firsts."""
    append(store, [started(session), running(session)])
    for hour in range(hours):
        if hour:
            roll_over(store)
        append(store, [output(hour * HOUR_NS + n, b"%d\n" % n, session=session) for n in range(20)])
    return store.segments()


def finish(store: Store, elapsed_ns: int, session: str = A) -> None:
    row = store.session(session)
    assert row is not None
    append(store, [exited(elapsed_ns, row.lines, row.bytes, session), ended(elapsed_ns, session)])


def nobody(row: object) -> bool:
    return False


def firsts(doomed: Plan) -> list[int]:
    return [segment.first for segment in doomed.segments]


# -- what goes -----------------------------------------------------------------------------------------------------


def test_segments_go_whose_newest_event_is_older_than_the_limit(log: Path) -> None:
    with Store(log) as store:
        segments = hourly_log(store, 6)
        finish(store, 5 * HOUR_NS + 100)

        doomed = plan(store, now_ns=BEGAN_NS + 6 * HOUR_NS, older_than_ns=3 * HOUR_NS)

        assert firsts(doomed) == segments[:3]  # the third's newest event is 3 h 59 min 59.99 s old
        assert [segment.last + 1 for segment in doomed.segments] == segments[1:4]
        assert [segment.newest_at_ns for segment in doomed.segments] == [
            BEGAN_NS + hour * HOUR_NS + 19 for hour in range(3)
        ]
        assert doomed.first == segments[3]
        assert doomed.stopped == "the rest is within the limit"
        assert (doomed.gone, doomed.truncated) == ([], [A])


def test_the_oldest_go_until_the_log_takes_no_more_than_a_size(log: Path) -> None:
    with Store(log) as store:
        segments = hourly_log(store, 6)
        finish(store, 5 * HOUR_NS + 100)
        sizes = [disk_bytes(log / segment_name(first)) for first in segments]

        assert firsts(plan(store, now_ns=0, keep_bytes=sum(sizes))) == []
        assert firsts(plan(store, now_ns=0, keep_bytes=sum(sizes) - 1)) == segments[:1]
        doomed = plan(store, now_ns=0, keep_bytes=sum(sizes[2:]))
        assert firsts(doomed) == segments[:2]
        assert doomed.bytes == sum(sizes[:2])


def test_the_newest_segment_always_stays(log: Path) -> None:
    with Store(log) as store:
        segments = hourly_log(store, 3)
        finish(store, 3 * HOUR_NS)

        doomed = plan(store, now_ns=BEGAN_NS + 10**9 * HOUR_NS, older_than_ns=0, keep_bytes=0)

        assert firsts(doomed) == segments[:2]
        assert doomed.stopped == "the newest segment always stays"


def test_a_limit_must_be_given(log: Path) -> None:
    with Store(log) as store, pytest.raises(ValueError, match="neither"):
        plan(store, now_ns=0)


def test_a_segment_is_as_old_as_its_newest_event_wherever_that_stands(log: Path) -> None:
    """Wall clocks fall between sessions: the last record is not always the newest."""
    with Store(log) as store:
        append(store, [started(A), running(A), output(7 * HOUR_NS, b"x\n"), started(B), running(B)])
        append(store, [output(1, b"y\n", session=B)])
        roll_over(store)
        append(store, [event(None, 9 * HOUR_NS, RulesChanged("d", "t"))])
        roll_over(store)
        append(store, [output(2, b"y\n", session=B)])

        doomed = plan(store, now_ns=0, keep_bytes=0, is_running=nobody)

        assert [segment.newest_at_ns - BEGAN_NS for segment in doomed.segments] == [7 * HOUR_NS, 9 * HOUR_NS]


def test_sessions_are_told_apart_by_whether_all_of_them_goes(log: Path) -> None:
    with Store(log) as store:
        append(store, [started(A), running(A), started(B), running(B), exited(1, 0, 0, A), ended(1, A)])
        roll_over(store)
        append(store, [started(C), running(C)])
        roll_over(store)
        append(store, [output(5, b"x\n", session=B), output(5, b"x\n", session=C)])

        two = plan(store, now_ns=0, keep_bytes=0, is_running=nobody)
        assert (two.gone, two.truncated) == ([A], [B, C])
        prune(store, two)

        roll_over(store)
        append(store, [output(6, b"x\n", session=C)])
        third = plan(store, now_ns=0, keep_bytes=0, is_running=nobody)
        assert (third.gone, third.truncated) == ([B], [C])


# -- running sessions ----------------------------------------------------------------------------------------------


def test_a_running_session_keeps_the_day_before_its_last_event(log: Path) -> None:
    """However long ago that is: by the session's clock, not by ours."""
    with Store(log) as store:
        segments = hourly_log(store, 30)  # its last event is at 29 h and 19 ns

        doomed = plan(store, now_ns=BEGAN_NS + 1_000 * DAY_NS, older_than_ns=HOUR_NS)

        assert firsts(doomed) == segments[:5]  # hour 5 has one record in the last day: at 5 h and 19 ns
        assert doomed.stopped == (f"session {A} is running and its last day begins at position {segments[6] - 1}")
        finish(store, 30 * HOUR_NS)
        assert len(firsts(plan(store, now_ns=BEGAN_NS + 1_000 * DAY_NS, older_than_ns=HOUR_NS))) == 29


def test_nothing_goes_past_the_first_segment_that_is_held(log: Path) -> None:
    """A session of an hour that runs in the oldest segment holds all that came after."""
    with Store(log) as store:
        append(store, [started(B), running(B)])
        hourly_log(store, 50)

        doomed = plan(store, now_ns=BEGAN_NS + 1_000 * DAY_NS, older_than_ns=0)

        assert firsts(doomed) == []
        assert doomed.stopped == f"session {B} is running and its last day begins at position 1"


def test_who_runs_is_for_the_caller_to_say(log: Path) -> None:
    """A session whose recorder died looks open in the table until someone reports it lost."""
    with Store(log) as store:
        segments = hourly_log(store, 3)

        assert firsts(plan(store, now_ns=0, keep_bytes=0)) == []
        assert firsts(plan(store, now_ns=0, keep_bytes=0, is_running=lambda row: row.session != A)) == segments[:2]


def test_a_run_that_reaches_into_the_last_day_belongs_to_it(log: Path) -> None:
    with Store(log) as store:
        append(store, [started(), running()])
        append(store, [output_record(A, BEGAN_NS, "pty", [(HOUR_NS, [b"a\n", b"b\n"]), (3 * HOUR_NS, [b"c\n"])])])
        roll_over(store)
        append(store, [output(2 * HOUR_NS + DAY_NS, b"d\n")])

        assert plan(store, now_ns=0, keep_bytes=0).stopped.endswith("its last day begins at position 3")


def test_a_running_session_whose_last_day_cannot_be_read_holds_what_it_may_stand_in(log: Path) -> None:
    with Store(log) as store:
        segments = hourly_log(store, 30)
        assert firsts(plan(store, now_ns=0, keep_bytes=0)) == segments[:5]
    cut(data_file(log, segments[5]), 8_192)

    with Store(log) as store:
        assert firsts(plan(store, now_ns=0, keep_bytes=0)) == segments[:4]


# -- deleting ------------------------------------------------------------------------------------------------------


def test_a_plan_deletes_nothing_and_prune_deletes_the_plan(log: Path) -> None:
    with Store(log) as store:
        segments = hourly_log(store, 5)
        truth = contents(store)
        doomed = plan(store, now_ns=0, keep_bytes=0, is_running=nobody)
        assert store.segments() == segments

        assert prune(store, doomed) == doomed.bytes
        assert deleted_files_held_open() == []

        assert store.segments() == segments[4:]
        assert store.first == doomed.first == segments[4]
        assert contents(store) == [record for record in truth if record.first >= segments[4]]
        assert sorted(path.name for path in log.iterdir()) == [segment_name(segments[4]), "retention.lock"]
    assert findings(log) == []


def test_a_pruned_session_stays_listed_and_its_id_is_never_given_again(log: Path) -> None:
    with Store(log) as store:
        fact = SessionStarted("a", ["x"], "/", "pty", 80, 24, "h", {}, "r", "cli")
        chosen: list[str] = []
        store.append([start(fact, BEGAN_NS, chosen)])
        append(store, [running(chosen[0])])
        finish(store, 1, chosen[0])
        roll_over(store)
        append(store, [event(None, 0, RulesChanged("d", "t"))])
        row = store.session(A)

        prune(store, plan(store, now_ns=0, keep_bytes=0))
        store.append([start(fact, BEGAN_NS, chosen)])

        assert chosen == [A, f"{A}-2"]
        assert store.session(A) == row
        assert row is not None
        assert row.first_position < store.first


def test_a_plan_that_came_too_late_deletes_only_what_is_still_the_oldest(log: Path) -> None:
    with Store(log) as store:
        segments = hourly_log(store, 5)
        doomed = plan(store, now_ns=0, keep_bytes=0, is_running=nobody)
        first_two = Plan(doomed.segments[:2], [], [], segments[2], "")
        without_the_third = Plan([*doomed.segments[:2], doomed.segments[3]], [], [], segments[4], "")

        assert prune(store, first_two) > 0
        assert prune(store, without_the_third) == 0
        assert store.segments() == segments[2:]
        assert prune(store, Plan([*doomed.segments, doomed.segments[0]], [], [], 0, "")) > 0
        assert store.segments() == segments[4:]


def test_two_prunes_at_a_time_free_everything_once(log: Path) -> None:
    with Store(log) as store:
        hourly_log(store, 12)
        doomed = plan(store, now_ns=0, keep_bytes=0, is_running=nobody)
        freed: list[int] = []
        both = [threading.Thread(target=lambda: freed.append(prune(store, doomed))) for _ in range(2)]

        for thread in both:
            thread.start()
        for thread in both:
            thread.join()

        assert sum(freed) == doomed.bytes
        assert len(store.segments()) == 1


def test_a_prune_waits_for_whoever_holds_the_lock(log: Path) -> None:
    with Store(log) as store:
        hourly_log(store, 3)
        doomed = plan(store, now_ns=0, keep_bytes=0, is_running=nobody)
        thread = threading.Thread(target=prune, args=(store, doomed))
        with retention_lock(log, shared=True):
            thread.start()
            thread.join(0.1)
            assert len(store.segments()) == 3
        thread.join()
        assert len(store.segments()) == 1


def test_what_a_killed_prune_left_is_deleted_by_the_next(log: Path) -> None:
    with Store(log) as store:
        segments = hourly_log(store, 3)
        (log / segment_name(1)).rename(log / ".gone-1")

        assert store.first == segments[1]
        prune(store, plan(store, now_ns=0, keep_bytes=1 << 40))

        assert not (log / ".gone-1").exists()
        assert store.segments() == segments[1:]


# -- others --------------------------------------------------------------------------------------------------------

PRUNE_ALL = """
import sys
from pathlib import Path
from eventlog.prune import plan, prune
from eventlog.store import Store
with Store(Path(sys.argv[1])) as store:
    print(prune(store, plan(store, now_ns=0, keep_bytes=0, is_running=lambda row: False)))
"""


def deleted_files_held_open() -> list[str]:
    held = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # the listing's own
    return [name for name in held if name.endswith("data.mdb (deleted)")]


def test_a_reader_goes_on_when_another_process_prunes_what_it_reads(log: Path) -> None:
    """In the middle of a deleted segment it finds itself at the new first; the disk space is given back."""
    segments = log_of_segments(log, 4)
    with Store(log, cap_bytes=TINY_CAP) as store:
        truth = contents(store)
        records = store.records()
        seen = [next(records) for _ in range(5)]

        assert int(elsewhere(PRUNE_ALL, log)) > 3 * 100_000
        seen += records

        assert store.first == segments[3]
        after = [record for record in truth if record.first >= segments[3]]
        assert seen[-len(after) :] == after
        before = seen[: -len(after)]
        assert before == truth[: len(before)]
        assert store.read(0).records[0].first == segments[3]
        assert deleted_files_held_open() == []
        assert store.sessions()[0].first_position == 1


def test_a_reader_inside_a_segment_that_is_deleted_reads_it_to_its_end(log: Path) -> None:
    log_of_segments(log, 3)
    with Store(log, cap_bytes=TINY_CAP) as store:
        with store.using(1) as segment:
            elsewhere(PRUNE_ALL, log)
            after = 0
            while (page := segment.read(after, 10_000)).records:
                after = page.position
            assert after == segment.head()
            assert store.first > after  # and a read elsewhere meanwhile does not close it under our feet
            assert store.read(0).records[0].first == store.first
            assert segment.read(0, 1).records[0].first == 1
        store.read(0)
        assert deleted_files_held_open() == []


def test_a_recorder_that_was_idle_while_its_segment_was_pruned_appends_to_the_newest(log: Path) -> None:
    with Store(log, cap_bytes=TINY_CAP) as store:
        append(store, [started(), running()])
        elsewhere(
            """
import sys
from pathlib import Path
from tests.eventlog.maintenance_helpers import *
with Store(Path(sys.argv[1])) as store:
    for n in range(1, 4):
        with store.live() as segment:
            segment.seal()
        append(store, [output(n, b"x\\n")])
""",
            log,
        )
        elsewhere(PRUNE_ALL, log)
        store.read(0)  # closes what was pruned

        [position] = append(store, [output(9, b"y\n")])

        assert position == store.head() == 6
        assert store.segments() == [5]


def test_a_segment_that_cannot_be_read_goes_by_size_but_not_by_age(log: Path) -> None:
    """Nothing in it tells how old it is."""
    with Store(log) as store:
        segments = hourly_log(store, 3)
        finish(store, 3 * HOUR_NS)
    cut(data_file(log), 8_192)

    with Store(log) as store:
        with pytest.raises(EventDecodeError):
            store.read(0)
        long_after = BEGAN_NS + 100 * DAY_NS
        assert firsts(plan(store, now_ns=long_after, older_than_ns=DAY_NS)) == []
        prune(store, plan(store, now_ns=long_after, keep_bytes=0))
        assert store.segments() == segments[2:]
