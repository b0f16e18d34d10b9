"""The session table: what a row says after each event, and that the log's own table is the fold of its events."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog.codec import Record, records_of
from eventlog.decisions import change_state, start
from eventlog.events import (
    Command,
    CommandOutcome,
    Event,
    Gap,
    Input,
    Marker,
    Resized,
    RulesChanged,
    SessionExited,
    SessionStarted,
    StateChanged,
    Unknown,
)
from eventlog.sessions import AGENT_NAME, Session, fold, session_id
from eventlog.store import Store
from tests.eventlog.helpers import BEGAN_NS, SESSION, TINY_CAP_BYTES, append, output, started, stored, stored_run

KILL = Command("c1", "kill", {"grace_s": 5}, "admin")
SECOND_NS = 1_000_000_000


def row_after(*events: Event, elapsed_ns: int = 0) -> Session:
    """The row of a session that began and met *events*, one a nanosecond from *elapsed_ns*."""
    row = fold(None, Record(SESSION, BEGAN_NS, 0, started(), last=1))
    position = 1
    for ns, event in enumerate(events, elapsed_ns):
        for record in records_of(SESSION, BEGAN_NS + ns, ns, [event]):
            position += record.count
            record.last = position
            row = fold(row, record)
    assert row is not None
    return row


# -- one row -------------------------------------------------------------------------------------------------------


def test_a_session_that_began_is_starting_and_its_row_says_what_was_asked_for() -> None:
    row = row_after()

    assert (row.session, row.agent, row.argv, row.cwd) == (SESSION, "agent", ["true"], "/home/me")
    assert (row.mode, row.cols, row.rows, row.host, row.tags) == ("pty", 80, 24, "host", {})
    assert (row.recorder, row.source, row.started_at_ns) == ("recorder-1", "cli", BEGAN_NS)
    assert (row.first_position, row.last_position, row.state, row.is_open) == (1, 1, "starting", True)


def test_output_of_all_streams_is_counted_in_line_feeds_and_bytes() -> None:
    row = row_after(output(b"one\r\n"), output(b"no end"), output(b"err\n", "stderr"), output(b"\n"))

    assert (row.lines, row.bytes, row.last_position) == (3, 16, 5)


def test_the_last_output_s_time_is_its_read_s() -> None:
    row = fold(None, Record(SESSION, BEGAN_NS, 0, started(), last=1))
    [run] = stored_run(SESSION, (10, [b"a"]), (70, [b"b", b"c"]))
    run.record.last = 4

    row = fold(row, run.record)

    assert row is not None
    assert (row.last_output_at_ns, row.last_elapsed_ns) == (BEGAN_NS + 70, 70)


def test_a_state_change_carries_the_pid_and_later_ones_keep_it() -> None:
    row = row_after(StateChanged("starting", "running", "started", 4711), StateChanged("running", "paused", "asked"))

    assert (row.state, row.pid, row.is_open, row.ended_at_ns) == ("paused", 4711, True, None)


@pytest.mark.parametrize("state", ["exited", "failed", "killed", "lost"])
def test_a_final_state_ends_the_session(state: str) -> None:
    row = row_after(StateChanged("running", state, "why"), elapsed_ns=9)  # type: ignore[arg-type]

    assert (row.state, row.is_open, row.ended_at_ns, row.duration_ns) == (state, False, BEGAN_NS + 9, 9)


def test_an_exit_says_how_and_how_long_and_the_state_that_follows_keeps_it() -> None:
    exited = SessionExited(None, "SIGTERM", 1_234, 10, 100, False, {"utime_s": 0.1})

    row = row_after(exited, StateChanged("running", "killed", "SIGTERM"), elapsed_ns=2_000)

    assert (row.exit_code, row.signal, row.duration_ns, row.ended_at_ns) == (None, "SIGTERM", 1_234, BEGAN_NS + 2_001)


def test_a_row_has_the_last_size_and_whether_a_kill_was_asked_for() -> None:
    row = row_after(Resized(132, 50, "attach"), KILL, CommandOutcome("c1", "ok"))

    assert (row.cols, row.rows, row.killed) == (132, 50, True)
    assert not row_after(Command("c2", "pause", {}, "admin")).killed


@pytest.mark.parametrize(
    "event",
    [Input(b"y\r", 2, False, "me"), Marker("here", "me"), Gap("pty", 3, "why"), Unknown(99, b"\x91\x63")],
    ids=lambda event: type(event).__name__,
)
def test_any_other_event_moves_the_last_position_and_nothing_else(event: Event) -> None:
    row = fold(row_after(), Record(SESSION, BEGAN_NS, 0, event, last=7))  # type: ignore[arg-type]

    assert row == msgspec.structs.replace(row_after(), last_position=7)


def test_what_belongs_to_no_known_session_makes_no_row() -> None:
    assert fold(None, Record(None, BEGAN_NS, 0, RulesChanged("d1", ""), last=1)) is None
    assert fold(None, Record(SESSION, BEGAN_NS, 0, Marker("here", "me"), last=1)) is None


# -- the log's own table -------------------------------------------------------------------------------------------

SESSIONS = ["a-1", "b-1", "c-1"]
facts = st.sampled_from(
    [
        output(b"line\n"),
        output(b"x" * 3_000 + b"\n"),
        output(b"tail", "stderr"),
        StateChanged("starting", "running", "started", 4711),
        StateChanged("running", "exited", "ended"),
        SessionExited(0, None, 5, 1, 2, True, {}),
        Resized(100, 40, "me"),
        KILL,
        Marker("m", "me"),
    ]
)
commits = st.lists(st.lists(st.tuples(st.sampled_from(SESSIONS), facts), min_size=1, max_size=6), max_size=12)


@settings(max_examples=25)
@given(commits)
def test_the_table_is_the_fold_of_all_events_through_roll_overs_and_a_new_start(
    commits: list[list[tuple[str, Event]]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        with Store(Path(directory), cap_bytes=TINY_CAP_BYTES) as store:
            store.append([stored(session, started(session[0])) for session in SESSIONS])
            for number, commit in enumerate(commits):
                store.append([stored(session, event, elapsed_ns=number) for session, event in commit])
                if number % 5 == 4:
                    store.reopen()  # and with it all rows that were kept decoded
        with Store(Path(directory), create=False) as store:
            rows: dict[str | None, Session | None] = {}
            for record in store.records():
                rows[record.session] = fold(rows.get(record.session), record)
            assert {row.session: row for row in store.sessions()} == rows


def test_a_failed_commit_leaves_no_trace_in_the_rows(tmp_path: Path) -> None:
    """Rows are folded in place, before it is known whether they will be stored."""

    def fails(_: object) -> list[object]:
        raise ZeroDivisionError

    with Store(tmp_path) as store:
        append(store, SESSION, started(), output(b"one\n"))
        with pytest.raises(ZeroDivisionError):
            store.append([stored(SESSION, output(b"lost\n")), fails])  # type: ignore[list-item]
        append(store, SESSION, output(b"two\n"))

        row = store.session(SESSION)
        assert row is not None
        assert (row.lines, row.bytes, row.last_position) == (2, 8, 3)


# -- names ---------------------------------------------------------------------------------------------------------


def test_a_session_s_id_is_its_agent_and_its_start_in_utc() -> None:
    assert session_id("claude", BEGAN_NS) == "claude-20261122-101500"
    assert session_id("claude", BEGAN_NS + SECOND_NS - 1, 3) == "claude-20261122-101500-3"


def started_in(store: Store, agent: str = "agent", at_ns: int = BEGAN_NS) -> str:
    chosen: list[str] = []
    store.append([start(started(agent), at_ns, chosen)])
    return chosen[-1]


def test_sessions_of_one_name_and_second_are_numbered(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        ids = [started_in(store) for _ in range(3)]

        assert ids == [SESSION, f"{SESSION}-2", f"{SESSION}-3"]
        assert started_in(store, "other") == "other-20261122-101500"
        assert started_in(store, at_ns=BEGAN_NS + SECOND_NS) == "agent-20261122-101501"


def test_sessions_started_in_one_transaction_get_ids_of_their_own(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        chosen: list[str] = []
        store.append([start(started(), BEGAN_NS, chosen) for _ in range(3)])

        assert chosen == [SESSION, f"{SESSION}-2", f"{SESSION}-3"]
        assert [row.session for row in store.sessions()] == chosen


def test_an_id_is_not_used_again_after_its_segment_was_deleted(tmp_path: Path) -> None:
    with Store(tmp_path, cap_bytes=1) as store:
        started_in(store)
        append(store, None, RulesChanged("d1", ""))
        store.reopen()
        for path in (tmp_path / f"{1:020d}").iterdir():
            path.unlink()
        (tmp_path / f"{1:020d}").rmdir()

        assert store.first == 2
        assert started_in(store) == f"{SESSION}-2"


def test_an_agent_s_name_is_no_path_and_no_option() -> None:
    for name in ("claude", "a", "Claude_4.5-x", "9lives", "a" * 64):
        assert AGENT_NAME.fullmatch(name)
    for name in ("", "-rf", ".hidden", "_x", "a/b", "..", "a b", "a\n", "ä", "a" * 65, "a\0"):
        assert not AGENT_NAME.fullmatch(name)


# -- what others report --------------------------------------------------------------------------------------------

OPEN = frozenset({"starting", "running", "paused"})


def test_who_finds_a_session_lost_stamps_its_own_last_time(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        append(store, SESSION, started())
        append(store, SESSION, StateChanged("starting", "running", "started", 1), output(b"x\n"), elapsed_ns=500)

        store.append([change_state(SESSION, "lost", "its recorder is gone", only_if=OPEN)])

        last = store.read(store.head() - 1).records[0]
        assert last.event == StateChanged("running", "lost", "its recorder is gone")
        assert (last.elapsed_ns, last.at_ns) == (500, BEGAN_NS + 500)


def test_what_another_has_reported_before_is_not_reported_again(tmp_path: Path) -> None:
    """Looked at inside the transaction, so of two who find it lost at once one reports it."""
    with Store(tmp_path) as store:
        append(store, SESSION, started())
        lost = change_state(SESSION, "lost", "its recorder is gone", only_if=OPEN)

        assert store.append([lost, lost]) == [[2], []]
        assert store.append([lost]) == [[]]
        assert store.append([change_state("never-1", "lost", "", only_if=OPEN)]) == [[]]
        assert store.head() == 2


def test_every_fact_of_a_started_event_has_its_place_in_the_row() -> None:
    assert set(SessionStarted.__struct_fields__) <= set(Session.__struct_fields__)
