"""Where others' recorders lose the end of a session, or never come to one."""

from __future__ import annotations

import signal
import subprocess
import time

from tests.end_to_end.helpers import Steno

FLOOD = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); sleep 0.001; done"


def test_a_terminal_closed_and_opened_again_by_its_child_is_still_recorded(steno: Steno) -> None:
    """While nobody holds a terminal its master reads end of file; sudo and ssh come back by /dev/tty."""
    script = "exec <&- >&- 2>&-; sleep 0.3; seq 20000 >/dev/tty"

    assert steno("run", "--name", "again", "--", "sh", "-c", script).out.count(b"\n") == 20_000
    assert steno.rows("show", "again")[0]["lines"] == 20_000


def test_an_unreadable_stdin_is_the_end_of_input(steno: Steno) -> None:
    """As nohup leaves it."""
    done = steno.shell("steno run --mode pipe --name cat -- cat 0>/dev/null; steno run --name pty -- cat 0>/dev/null")

    assert done.status == 0, done.err


def test_a_session_takes_as_long_as_its_program_however_long_its_terminal_is_held(steno: Steno) -> None:
    steno("run", "--name", "holder", "--", "bash", "-c", "trap '' HUP; sleep 4 & exit 0")
    row = steno.rows("show", "holder")[0]

    assert row["state"] == "exited"
    assert row["duration_s"] < 1.5  # the terminal was drained for 2 s more
    assert steno.rows("log", "holder", "--kind", "session_exited")[0]["output_open"]


def test_a_recorder_that_is_stopped_leaves_the_home_to_others(steno: Steno) -> None:
    """Stopped inside a commit it would hold the log's writer lock, and every recorder of the home would wait."""
    flood = steno.start(
        *("run", "--mode", "pipe", "--quiet", "--name", "flood", "--", "sh", "-c", FLOOD), stdin=subprocess.DEVNULL
    )
    steno.session()

    for _ in range(4):
        flood.send_signal(signal.SIGTSTP)
        began = time.monotonic()
        assert steno("run", "--quiet", "--name", "other", "--", "true").status == 0
        assert time.monotonic() - began < 20
        flood.send_signal(signal.SIGCONT)
        time.sleep(0.1)

    assert flood.wait(60) == 0
    assert steno.rows("show", "flood")[0]["lines"] == 3000


def test_a_pruned_beginning_is_told_and_the_dump_is_no_success(steno: Steno) -> None:
    steno.environment["STENO_SEGMENT_BYTES"] = "65536"
    steno("run", "--quiet", "--name", "long", "--", "seq", "1", "60000")
    assert steno("prune", "--keep-bytes", "200K").status == 0

    done = steno("replay", "long", "--speed", "max")

    assert done.status == 1
    assert "were pruned" in done.err
    assert done.out.endswith(b"60000\r\n")
    assert steno.rows("sessions")[0]["truncated"]
    assert steno.rows("verify") == []
