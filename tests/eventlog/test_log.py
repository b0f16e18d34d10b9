"""The log as a trio program has it, and the recorded log of each format version, event by event."""

from __future__ import annotations

import inspect
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest
import trio

from eventlog.clock import Clock
from eventlog.decisions import change_state
from eventlog.errors import EventLogError
from eventlog.events import (
    NAMES,
    Command,
    CommandOutcome,
    Gap,
    Input,
    Marker,
    Output,
    Recorded,
    Resized,
    RulesChanged,
    SessionExited,
    SessionStarted,
    StateChanged,
    Unknown,
)
from eventlog.log import EventLog, open_log
from eventlog.store import Store
from tests.eventlog.helpers import (
    BEGAN_NS,
    SESSION,
    TINY_CAP_BYTES,
    events_of,
    everything,
    gapless,
    lines_of,
    numbered_line,
    numbers,
    output,
    started,
    stored,
)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    async with open_log(tmp_path / "log", cap_bytes=TINY_CAP_BYTES) as log:
        yield log


async def say(log: EventLog, label: str, session: str | None = SESSION) -> int:
    return await log.append(session, Marker(label, "me"), at_ns=BEGAN_NS, elapsed_ns=0)


def writer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "log-writer"]


# -- appending -----------------------------------------------------------------------------------------------------


async def test_an_append_returns_the_event_s_position_once_it_can_be_read(log: EventLog) -> None:
    for position in range(1, 6):
        assert await say(log, str(position)) == position
        assert log.head() == position
        assert log.store.read(position - 1).records[0].event == Marker(str(position), "me")


async def test_events_of_one_moment_are_one_commit(log: EventLog) -> None:
    events = [started(), output(b"one\n"), output(b"two\n"), Marker("m", "me")]

    assert await log.append_many(SESSION, events, at_ns=BEGAN_NS, elapsed_ns=0) == 4

    statistics = log.statistics()
    assert statistics is not None
    assert (statistics.commits, statistics.events) == (1, 4)


async def test_tasks_that_append_at_once_each_get_positions_of_their_own(log: EventLog) -> None:
    positions: dict[str, list[int]] = {}

    async def appends(name: str) -> None:
        positions[name] = [await say(log, f"{name} {number}", f"{name}-1") for number in range(20)]

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(appends, f"task{number}")

    events = everything(log.store)
    assert gapless(events)
    assert sorted(position for own in positions.values() for position in own) == list(range(1, 401))
    for name, own in positions.items():
        assert [events[position - 1].event for position in own] == [Marker(f"{name} {n}", "me") for n in range(20)]


async def test_an_append_that_is_cancelled_is_recorded_once_or_not_at_all(log: EventLog) -> None:
    for number in range(50):
        with trio.move_on_after(0.0005 * (number % 4)):
            await say(log, str(number))
    await say(log, "last")

    labels = [e.event.label for e in everything(log.store) if isinstance(e.event, Marker)]
    assert labels[-1] == "last"
    assert len(labels) == len(set(labels))


async def test_a_caller_gets_its_own_build_s_error_and_the_log_goes_on(log: EventLog) -> None:
    def build(_: object) -> list[object]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await log.submit(build)  # type: ignore[arg-type]

    assert await say(log, "on") == 1


async def test_a_caller_is_told_that_the_disk_is_full(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await say(log, "before")
    with monkeypatch.context() as patch:

        def full(*_: object) -> list[list[int]]:
            raise lmdb.DiskError("mdb_txn_commit: No space left on device")

        patch.setattr(log.store, "append", full)
        with pytest.raises(lmdb.DiskError):
            await say(log, "lost")
        assert log.head() == 1

    assert await say(log, "after") == 2


# -- sessions ------------------------------------------------------------------------------------------------------


async def test_a_session_s_start_decides_its_id(log: EventLog) -> None:
    found = [await log.start_session(started("claude"), BEGAN_NS) for _ in range(2)]

    assert found == [("claude-20261122-101500", 1), ("claude-20261122-101500-2", 2)]


async def test_tasks_that_start_sessions_of_one_second_at_once_get_an_id_each(log: EventLog) -> None:
    chosen: list[str] = []

    async def start() -> None:
        chosen.append((await log.start_session(started("claude"), BEGAN_NS))[0])

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(start)

    assert len(set(chosen)) == 30
    assert {row.session for row in log.store.sessions()} == set(chosen)


async def test_a_state_changes_only_from_where_it_was_expected(log: EventLog) -> None:
    session, _ = await log.start_session(started(), BEGAN_NS)
    lost = change_state(session, "lost", "its recorder is gone", only_if=frozenset({"starting"}))

    assert (await log.submit(lost), await log.submit(lost)) == ([2], [])


async def test_a_session_s_records_from_a_time_on_miss_nothing_at_or_after_it(log: EventLog) -> None:
    await log.append(SESSION, started(), at_ns=BEGAN_NS, elapsed_ns=0)
    for number in range(200):
        lines = [output(b"x" * 30)] * 50
        await log.submit([*stored(SESSION, *lines, elapsed_ns=number), *stored(None, RulesChanged("d", ""))])
    row = log.store.session(SESSION)
    assert row is not None

    everything_of_it = events_of(log.store.records(log.store.session_start(row.session), session=row.session))
    late = events_of(log.store.records(log.store.session_start(row.session, 150), session=row.session))

    assert len(log.store.segments()) > 3
    assert len(everything_of_it) == 1 + 200 * 50
    assert late == everything_of_it[-len(late) :]
    assert 50 * 50 <= len(late) < len(everything_of_it) / 2


# -- lifetime ------------------------------------------------------------------------------------------------------


async def test_at_the_end_of_the_block_all_that_was_offered_is_on_disk(tmp_path: Path) -> None:
    async with open_log(tmp_path) as log:
        await log.append(SESSION, started(), at_ns=BEGAN_NS, elapsed_ns=0)
        for number in range(500):
            log.writer.offer(stored(SESSION, output(numbered_line(SESSION, number))))

    assert not writer_threads()
    with Store(tmp_path, create=False) as store:
        assert len(lines_of(everything(store))) == 500
        assert numbers(SESSION, lines_of(everything(store)))


async def test_a_block_that_ends_in_an_error_loses_nothing_that_was_offered(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with open_log(tmp_path) as log:
            await log.append(SESSION, started(), at_ns=BEGAN_NS, elapsed_ns=0)
            log.writer.offer(stored(SESSION, output(b"the last line\n")))
            raise ZeroDivisionError
    assert raised.group_contains(ZeroDivisionError)

    with Store(tmp_path, create=False) as store:
        assert lines_of(everything(store)) == [b"the last line\n"]


async def test_a_reader_has_no_writer_s_thread(log: EventLog) -> None:
    assert (log.head(), log.first, log.statistics()) == (0, 1, None)
    assert await log.subscribe(after=0).next() == []

    assert not writer_threads()


async def test_a_closed_log_takes_nothing_more(log: EventLog) -> None:
    await say(log, "last")
    log.close()

    with pytest.raises(trio.ClosedResourceError):
        await say(log, "too late")


async def test_a_log_that_is_not_there_is_made_for_who_writes_only(tmp_path: Path) -> None:
    with pytest.raises(EventLogError):
        async with open_log(tmp_path, create=False):
            pass

    async with open_log(tmp_path / "new" / "home" / "log") as log:
        assert log.head() == 0


async def test_a_log_keeps_its_id(tmp_path: Path) -> None:
    ids = set()
    for _ in range(2):
        async with open_log(tmp_path, cap_bytes=1) as log:
            await say(log, "one segment more")
            ids.add(log.log_id)

    assert len(ids) == 1


def test_a_session_s_clock_counts_from_its_start_and_reads_the_wall_once() -> None:
    clock = Clock()
    first, second = clock.elapsed_ns(), clock.elapsed_ns()

    assert 0 <= first <= second < 10_000_000_000
    assert clock.began_ns > BEGAN_NS - 3 * 365 * 86_400 * 10**9


def test_what_may_wait_is_what_is_async() -> None:
    """A read is a short transaction without an await in it; only an append waits for the disk."""
    waiting = {name for name, member in inspect.getmembers(EventLog) if inspect.iscoroutinefunction(member)}

    assert waiting == {"append", "append_many", "submit", "start_session"}


# -- recorded logs -------------------------------------------------------------------------------------------------

LOG_V1 = Path(__file__).parent.parent / "fixtures" / "log-v1"
V1_NS = 1_795_342_500_123_456_789  # 2026-11-22T10:15:00.123456789Z
V1_MAKE_NS = V1_NS + 1_000_000_000
CLAUDE = "claude-20261122-101500"
MAKE = "build-20261122-101501"
MS = 1_000_000


def claude(position: int, elapsed_ms: int, event: object) -> Recorded:
    return Recorded(position, CLAUDE, V1_NS + elapsed_ms * MS, elapsed_ms * MS, event)  # type: ignore[arg-type]


def make(position: int, elapsed_ms: int, event: object) -> Recorded:
    return Recorded(position, MAKE, V1_MAKE_NS + elapsed_ms * MS, elapsed_ms * MS, event)  # type: ignore[arg-type]


V1_EVENTS = [
    Recorded(1, None, V1_NS, 0, RulesChanged("6f1c", 'version = 1\n\n[[rule]]\nname = "claude.tool_use"\n')),
    claude(
        2,
        0,
        SessionStarted(
            agent="claude",
            argv=["claude", "--continue"],
            cwd="/home/me/cart",
            mode="pty",
            cols=120,
            rows=40,
            host="workbench",
            tags={"ticket": "CART-7", "who": "größe"},
            recorder="recorder-4711",
            source="cli",
        ),
    ),
    claude(3, 2, StateChanged("starting", "running", "started", 4712)),
    claude(4, 10, Output("pty", b"\x1b[2J\x1b[H\xe2\x8f\xba Read(src/cart.py)\r\n")),
    claude(5, 10, Output("pty", b"  \xe2\x8e\xbf Read 40 li")),
    claude(6, 15, Output("pty", b"nes\r\n")),
    claude(7, 15, Output("pty", b"caf\xc3")),
    claude(8, 16, Output("pty", b"\xa9\r\n")),
    claude(9, 16, Output("pty", b"\x1b[3")),
    claude(10, 40, Output("pty", b"1mred\x1b[0m\r\n")),
    claude(11, 50, Resized(132, 50, "attach")),
    claude(12, 60, Input(b"yes\r", 4, False, "keyboard")),
    claude(13, 61, Output("pty", b"Password: ")),
    claude(14, 70, Input(None, 9, True, "keyboard")),
    claude(15, 80, Command("c-1", "pause", {}, "connection-3 controller")),
    claude(16, 81, StateChanged("running", "paused", "pause by connection-3", None)),
    claude(17, 82, CommandOutcome("c-1", "ok", None)),
    make(
        18,
        0,
        SessionStarted("build", ["make"], "/tmp", "pipe", 80, 24, "workbench", {}, "recorder-4711", "api"),
    ),
    make(19, 1, StateChanged("starting", "running", "started", 4800)),
    make(20, 5, Output("stdout", b"cc -c a.c\n")),
    make(21, 6, Output("stderr", b"a.c:3: warning: unused\n")),
    make(22, 6, Output("stderr", b"\xff\xfe not UTF-8\n")),
    make(23, 7, Output("stdout", b"cc -o a a.o\n")),
    make(24, 7, Output("stdout", b"\n")),
    make(25, 7, Output("stdout", b"no newline at the end")),
    make(26, 8, Gap("stderr", 65_536, "the pipe was taken over")),
    make(
        27,
        9,
        SessionExited(
            exit_code=2,
            signal=None,
            duration_ns=9_000_000,
            lines=5,
            bytes=80,
            output_open=False,
            rusage={"utime_s": 0.25, "stime_s": 0.125, "maxrss_kib": 4096.0},
        ),
    ),
    make(28, 9, StateChanged("running", "failed", "exit code 2")),
    claude(
        29,
        90,
        Command("c-2", "kill", {"grace_s": 2.5, "force": True, "why": None, "n": -1, "by": "me"}, "connection-4 admin"),
    ),
    claude(30, 95, Marker("before the kill", "connection-4")),
    claude(31, 99, CommandOutcome("c-2", "failed", "survivors: 4713")),
    claude(32, 100, SessionExited(None, "SIGTERM", 100_000_000, 4, 82, True, {})),
    claude(33, 100, StateChanged("paused", "killed", "SIGTERM")),
    Recorded(34, None, V1_NS, 0, RulesChanged("9d02", "version = 1\n")),
]


def test_a_log_of_format_version_1_reads_as_it_was_recorded(tmp_path: Path) -> None:
    shutil.copytree(LOG_V1, tmp_path / "log")  # LMDB puts a lock file beside what it opens

    with Store(tmp_path / "log", create=False) as store:
        for found, expected in zip(everything(store), V1_EVENTS, strict=True):
            assert found == expected
        assert everything(store, session=MAKE) == [event for event in V1_EVENTS if event.session == MAKE]
        assert everything(store, after=5) == V1_EVENTS[5:]
        assert store.log_id == "0123456789abcdef0123456789abcdef"
        assert [store.session_start(CLAUDE), store.session_start(MAKE)] == [1, 17]


def test_a_log_of_format_version_1_has_its_session_table(tmp_path: Path) -> None:
    shutil.copytree(LOG_V1, tmp_path / "log")

    with Store(tmp_path / "log", create=False) as store:
        [claude, build] = store.sessions()

    assert (claude.session, claude.state, claude.signal, claude.killed) == (CLAUDE, "killed", "SIGTERM", True)
    assert (claude.lines, claude.bytes, claude.cols, claude.rows, claude.pid) == (4, 82, 132, 50, 4712)
    assert (claude.first_position, claude.last_position, claude.duration_ns) == (2, 33, 100_000_000)
    assert (build.session, build.state, build.exit_code, build.mode) == (MAKE, "failed", 2, "pipe")
    assert (build.lines, build.bytes, build.last_output_at_ns) == (5, 80, V1_MAKE_NS + 7 * MS)
    assert (build.started_at_ns, build.ended_at_ns) == (V1_MAKE_NS, V1_MAKE_NS + 9 * MS)


def test_a_log_of_format_version_1_is_continued(tmp_path: Path) -> None:
    shutil.copytree(LOG_V1, tmp_path / "log")

    with Store(tmp_path / "log") as store:
        assert store.append([stored(SESSION, started(), output(b"on\n"))]) == [[35, 36]]
        assert everything(store)[:34] == V1_EVENTS


def test_the_recorded_log_holds_every_kind_of_event() -> None:
    assert {type(event.event) for event in V1_EVENTS} == {*NAMES} - {Unknown}
