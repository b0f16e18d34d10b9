"""Many processes on one log: one order for all, and whoever follows sees it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from eventlog.events import Output
from eventlog.store import Store
from tests.eventlog.helpers import (
    PATIENCE_S,
    everything,
    follow,
    gapless,
    lines_of,
    numbers,
    pipe,
    received,
    running,
    write_lines,
)

WRITERS = 8
FOLLOWERS = 3
LINES = 1_500
CAP_BYTES = 256 << 10


@pytest.mark.slow
def test_eight_writers_and_three_followers_see_one_log(tmp_path: Path) -> None:
    """The followers have no safety net: who slept past the last commit would not end."""
    with Store(tmp_path / "log", cap_bytes=CAP_BYTES):
        pass
    names = [f"writer{number}" for number in range(WRITERS)]
    with ExitStack() as processes:
        followers = []
        for _ in range(FOLLOWERS):
            ours, theirs = pipe()
            process = processes.enter_context(running(follow, tmp_path / "log", WRITERS, theirs))
            assert received(ours, "a follower follows") == "following"
            followers.append((process, ours))
        writers = [
            processes.enter_context(running(write_lines, tmp_path / "log", name, LINES, CAP_BYTES)) for name in names
        ]
        for process in writers:
            process.join(2 * PATIENCE_S)
            assert process.exitcode == 0
        seen = [received(ours, "a follower ends when the last writer has") for _, ours in followers]
        for process, _ in followers:
            process.join(PATIENCE_S)
            assert process.exitcode == 0

    with Store(tmp_path / "log", create=False) as store:
        events = everything(store)
        rows = store.sessions()
        assert len(store.segments()) > 3
    assert gapless(events)
    assert len(events) == WRITERS * (1 + LINES + LINES // 50 + 1)
    assert sorted(row.agent for row in rows) == names
    for row in rows:
        lines = lines_of(events, row.session)
        assert len(lines) == LINES
        assert numbers(row.agent, lines)
        assert (row.state, row.lines, row.bytes) == ("exited", LINES, sum(map(len, lines)))
    expected = [(e.position, e.session, e.event.data if isinstance(e.event, Output) else b"") for e in events]
    assert all(follower == expected for follower in seen)
