"""kill -9 of writers at any moment: nothing that anyone has seen is lost, and nothing is there by half."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from eventlog.events import Recorded, SessionStarted
from eventlog.store import Store
from tests.eventlog.helpers import (
    PATIENCE_S,
    SESSION,
    append,
    everything,
    gapless,
    hold_the_lock,
    lines_of,
    numbered_line,
    numbers,
    output,
    pipe,
    read_all,
    received,
    running,
    started,
    wait_until,
    write_until_killed,
)

ROUNDS = 50
CAP_BYTES = 256 << 10  # every few rounds a writer dies while it makes the next segment


@pytest.mark.slow
def test_writers_killed_at_any_moment_lose_nothing_that_was_seen(tmp_path: Path) -> None:
    """Two at a time: the one that is left goes on, although the other may have died with the writer's lock."""
    chance = random.Random(20261122)
    said: list[Path] = []
    with Store(tmp_path / "log", cap_bytes=CAP_BYTES) as store:
        seen: list[Recorded] = []
        for number in range(ROUNDS):
            said += [tmp_path / f"first{number}", tmp_path / f"second{number}"]
            with (
                running(write_until_killed, store.directory, f"first{number}", said[-2], CAP_BYTES, number) as first,
                running(write_until_killed, store.directory, f"second{number}", said[-1], CAP_BYTES, -number) as second,
            ):
                kill_after(first, store, seen, chance)
                kill_after(second, store, seen, chance)

            store.reopen()
            found = everything(store)
            assert found[: len(seen)] == seen, f"round {number}: what was seen is gone or changed"
            assert gapless(found), f"round {number}"
            seen = found

        check_what_was_said(said, seen)
        segments = store.segments()
        roll_over(store)
        assert not [path.name for path in store.directory.iterdir() if path.name.startswith(".")]

    with Store(tmp_path / "log", create=False) as store:
        assert everything(store) == seen
        assert {row.session for row in store.sessions()} == {e.session for e in seen}
    assert len(segments) > 3


def roll_over(store: Store) -> None:
    with store.live() as segment:
        segment.seal()
    with store.live() as segment:
        assert segment.head() == store.head()


def kill_after(writer: ForkServerProcess, store: Store, seen: list[Recorded], chance: random.Random) -> None:
    """Read along until some hundred events more have come, and a moment more; then kill *writer*."""
    head = len(seen)
    more = chance.randint(1, 400)

    def enough() -> bool:
        page = store.read(len(seen))
        seen.extend(event for record in page.records for event in record.events())
        return len(seen) >= head + more

    wait_until(enough, f"{more} events more: does the one that is left go on?")
    moment = time.monotonic() + chance.random() * 0.005
    while time.monotonic() < moment:
        enough()
    writer.kill()
    writer.join(PATIENCE_S)


def check_what_was_said(said: list[Path], events: list[Recorded]) -> None:
    """What a writer was told to be on disk is, and of what it offered a beginning is, in its order."""
    sessions = {e.session: e.event.agent for e in events if isinstance(e.event, SessionStarted)}
    assert len(sessions) >= ROUNDS  # a writer may die before its first commit
    for session, agent in sessions.items():
        assert numbers(agent, lines_of(events, session)), f"{session}: not a beginning of what it offered"
    acknowledged = 0
    for path in said:
        told = path.read_text().splitlines() if path.exists() else []
        session = told[0] if told else None
        assert session is None or session in sessions
        for line in told[1:]:
            number, position = map(int, line.split())
            event = events[position - 1]
            assert (event.session, lines_of([event])) == (session, [numbered_line(sessions[session], number)])
            acknowledged += 1
    assert acknowledged > ROUNDS


@pytest.mark.parametrize("signal_number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_writer_that_stands_still_in_a_commit_keeps_nobody_from_reading(tmp_path: Path, signal_number: int) -> None:
    """Also from opening the log: py-lmdb opens a writable environment's databases in a write transaction."""
    with Store(tmp_path / "log") as store:
        append(store, SESSION, started(), output(b"before\n"))
    ours, theirs = pipe()
    with running(hold_the_lock, tmp_path / "log", theirs) as writer:
        assert received(ours, "it holds the writer's lock") == "held"
        assert writer.pid is not None
        os.kill(writer.pid, signal_number)
        ours, theirs = pipe()
        with running(read_all, tmp_path / "log", theirs):
            assert received(ours, "another has read the log") == [1, 2]
        writer.kill()
        writer.join(PATIENCE_S)

        with Store(tmp_path / "log") as store:  # it died with the lock, which the next writer gets
            assert append(store, SESSION, output(b"after\n")) == [3]


def test_a_writer_killed_while_it_makes_the_next_segment_is_followed_by_anyone(tmp_path: Path) -> None:
    """With a segment a commit, most moments are such ones."""
    with Store(tmp_path / "log", cap_bytes=1) as store:
        seen: list[Recorded] = []
        chance = random.Random(1)
        for number in range(10):
            said = tmp_path / f"said{number}"
            with running(write_until_killed, store.directory, f"w{number}", said, 1, number) as writer:
                kill_after(writer, store, seen, chance)

        found = everything(store)
        assert found[: len(seen)] == seen
        assert gapless(found)
        for session in {event.session for event in found}:
            assert session is not None
            assert numbers(session.split("-")[0], lines_of(found, session))
