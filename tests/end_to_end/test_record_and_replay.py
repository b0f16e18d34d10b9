"""From a real program into the log and out again, through the command line alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventlog.events import Input, Output
from tests.end_to_end.helpers import PATIENCE_S, Steno, agent, read_until, wait_until


@pytest.fixture
def steno(tmp_path: Path) -> Iterator[Steno]:
    with Steno(tmp_path / "home") as steno:
        yield steno


def fd(stream: object) -> int:
    return stream.fileno()  # type: ignore[attr-defined, no-any-return]


# -- there and back ------------------------------------------------------------------------------------------------


def test_a_program_is_recorded_listed_shown_and_replayed(steno: Steno) -> None:
    script = "printf '\\033[32m⏺ Read(cart.py)\\033[0m\\n'; printf 'no line end'; exit 3"
    done = steno("run", "--name", "claude", "--tag", "task=42", "--", "bash", "-c", script)
    expected = "\x1b[32m⏺ Read(cart.py)\x1b[0m\r\nno line end".encode()

    assert (done.status, done.out) == (3, expected)
    [row] = [json.loads(line) for line in steno("sessions", "--json").out.splitlines()]
    assert (row["session"], row["state"], row["exit_code"]) == (done.session, "failed", 3)
    assert (row["lines"], row["bytes"], row["tags"]) == (1, len(expected), {"task": "42"})
    assert steno("replay", "claude", "--speed", "max") == (0, expected, "")
    assert steno("verify").status == 0


def test_megabytes_through_stdin_and_stdout_come_back(steno: Steno) -> None:
    """Binary, on pipes, through a reader of our stdout and into the log."""
    data = os.urandom(5_000_000)
    done = steno("run", "--mode", "pipe", "--", "cat", stdin=data)

    assert (done.status, done.out == data) == (0, True)
    assert steno.output() == data
    assert steno("replay", done.session, "--speed", "max").out == data
    typed = b"".join(e.event.data or b"" for e in steno.events() if isinstance(e.event, Input))
    assert typed == data
    steno.verified()


def test_a_prompt_is_in_the_log_before_its_answer(steno: Steno) -> None:
    """As a program that answers prompts would see it: through ``steno log --follow``."""
    with steno.start("log", "--follow", "--json") as follower:
        with steno.start("run", "--", "bash", "-c", 'printf "Continue? [y/N] "; read a; echo "got $a"') as running:
            seen = read_until(fd(follower.stdout), b'"text":"Continue? [y/N] "')
            assert b'"type":"input"' not in seen
            os.write(fd(running.stdin), b"y\n")
            seen = read_until(fd(follower.stdout), b'"to":"exited"', seen)
            assert running.wait(PATIENCE_S) == 0

    events = [json.loads(line) for line in seen.splitlines()[:-1]]
    told = [(event["type"], event.get("text")) for event in events if event["type"] in ("input", "output")]
    assert told[0] == ("output", "Continue? [y/N] ")
    assert told.index(("input", "y\n")) < told.index(("output", "got y\r\n"))
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize(
    ("typed", "program", "expected"),
    [
        (b"echo $((6*7))\nexit 5\n", ["bash", "--norc"], b"42\r\n"),
        (b"echo $((6*7))\n", ["bash", "--norc"], b"42\r\n"),
        (b"print(6*7)\n", ["python3", "-q"], b"42\r\n"),
        (b"6*7\n", ["cat"], b"6*7\r\n6*7\r\n"),
    ],
    ids=["a shell that exits", "a shell", "a REPL", "cat"],
)
def test_what_is_piped_into_an_interactive_program_is_all_it_gets(
    steno: Steno, typed: bytes, program: list[str], expected: bytes
) -> None:
    done = steno("run", "--", *program, stdin=typed)

    assert done.status == (5 if b"exit 5" in typed else 0)
    assert expected in done.out


# -- our stdout ----------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_does_not_harm_the_recording(steno: Steno) -> None:
    done = steno.shell("steno run -- seq 200000 | head -1; echo ${PIPESTATUS[@]}")

    assert done.out.split() == [b"1", b"0", b"0"]
    assert steno.output().count(b"\n") == 200_000
    assert steno.ended().state == "exited"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", ">/dev/full"])
def test_a_closed_or_full_descriptor_does_not_harm_the_recording(steno: Steno, closed: str) -> None:
    """Whatever is opened next takes a free number: the log's own files, and the child's output went into them."""
    done = steno.shell(f"steno run --mode pipe -- sh -c 'cat; echo out; echo err >&2; exit 3' {closed}; echo $?")

    assert done.out.splitlines()[-1] == b"3"
    assert steno.output().split() == [b"out", b"err"]
    assert b"sh-" not in done.out
    assert "Traceback" not in done.err
    steno.verified()


def test_stdout_and_stderr_in_one_file_end_with_the_id_alone(steno: Steno, tmp_path: Path) -> None:
    done = steno.shell(
        f"""
        steno run --mode pipe -- sh -c 'echo err >&2; sleep 0.1; printf out' > {tmp_path}/both 2>&1
        steno run --mode pipe -- sh -c 'printf out; sleep 0.1; echo err >&2' 2>&1 | cat
        """
    )
    second, first = (row.session for row in reversed(steno.sessions()))

    assert (tmp_path / "both").read_text() == f"err\nout\n{first}\n"
    assert done.out.decode() == f"outerr\n{second}\n"


def test_a_slow_reader_does_not_slow_the_recording_and_sees_every_byte(steno: Steno) -> None:
    """Sixteen megabytes: a viewer a megabyte behind reads what it missed from the log."""
    began = time.monotonic()
    with steno.start("run", "--mode", "pipe", "--", *agent({"burst": {"lines": 200_000, "width": 79}})) as running:
        steno.ended()
        recorded_s = time.monotonic() - began
        assert running.poll() is None, "it waits for whoever reads its stdout"
        seen = b""
        while data := os.read(fd(running.stdout), 1 << 20):
            seen += data
        assert running.wait(PATIENCE_S) == 0
    began = time.monotonic()
    steno("run", "--quiet", "--mode", "pipe", "--", *agent({"burst": {"lines": 200_000, "width": 79}}))
    unseen_s = time.monotonic() - began

    assert len(seen) == 16_000_000
    assert seen == steno.output(steno.sessions()[0].session)
    assert recorded_s < 2 * unseen_s + 2


def test_who_does_not_wait_for_a_slow_reader_leaves_with_a_signal(steno: Steno) -> None:
    """The session is on disk by then: only its showing is cut short."""
    with steno.start("run", "--mode", "pipe", "--", "sh", "-c", "seq 500000; exit 3") as running:
        steno.ended()
        running.send_signal(signal.SIGTERM)
        assert running.wait(PATIENCE_S) == 143

    assert (steno.session().state, steno.session().exit_code) == ("failed", 3)
    assert steno.output().count(b"\n") == 500_000
    steno.verified()


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["pty", "pipe"])
@pytest.mark.parametrize(
    ("number", "script", "status"),
    [
        (signal.SIGTERM, "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.02; done", 7),
        (signal.SIGINT, "trap 'echo told; exit 8' INT; echo ready; while :; do sleep 0.02; done", 8),
        (signal.SIGTERM, "echo told; echo ready; exec sleep 60", 143),
    ],
    ids=["TERM, trapped", "INT, trapped", "TERM"],
)
def test_a_signal_to_steno_reaches_the_child(
    steno: Steno, mode: str, number: signal.Signals, script: str, status: int
) -> None:
    with steno.start("run", "--mode", mode, "--", "bash", "-c", script) as running:
        read_until(fd(running.stdout), b"ready")
        running.send_signal(number)
        assert running.wait(PATIENCE_S) == status

    assert b"told" in steno.output()
    assert steno.session().state == ("killed" if status > 128 else "failed")
    steno.verified()


def test_a_hang_up_ends_the_showing_and_not_the_session(steno: Steno) -> None:
    steps = [{"line": "before"}, {"prompt": "go on? "}, {"line": "after"}]
    with steno.start("run", "--", *agent(*steps)) as running:
        read_until(fd(running.stdout), b"go on? ")
        running.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert running.poll() is None
        os.write(fd(running.stdin), b"\n")
        assert running.wait(PATIENCE_S) == 0
        assert b"after" not in read_until(fd(running.stdout), None)

    assert b"after" in steno.output()
    assert steno.ended().state == "exited"


# -- following -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", ["1", "max"])
def test_a_replay_slides_from_history_into_live(steno: Steno, speed: str) -> None:
    """A child that prints all the while: not a line is missing or doubled at the seam."""
    steps = {"burst": {"lines": 60, "width": 40, "interval_s": 0.02}}
    with steno.start("run", "--quiet", "--", *agent(steps, {"text": "the end"})):
        steno.recorded(b"00000010 ")
        done = steno("replay", steno.session().session, "--follow", "--speed", speed)
        row = steno.ended()

    assert done.status == 0
    assert done.out == steno.output(row.session)
    assert done.out.endswith(b"the end")
    assert done.out.count(b"\n") == 60


def test_a_log_that_is_followed_tells_of_a_session_that_begins_meanwhile(steno: Steno) -> None:
    steno("run", "--quiet", "--", "true")
    before = steno.events()[-1].position
    with steno.start("log", "--follow", "--json", "--after", str(before)) as follower:
        done = steno("run", "--quiet", "--mode", "pipe", "--", "echo", "hello")
        seen = read_until(fd(follower.stdout), b'"to":"exited"')

    events = [json.loads(line) for line in (seen + b"\n").splitlines() if line.endswith(b"}")]
    assert [event["position"] for event in events] == list(range(before + 1, before + 1 + len(events)))
    assert {event["session"] for event in events} == {done.session}
    assert "hello\n" in [event.get("text") for event in events]


def test_a_followed_log_with_a_limit_ends_there(steno: Steno) -> None:
    steno("run", "--quiet", "--", "echo", "one")
    head = steno.events()[-1].position
    with steno.start("log", "--follow", "--json", "--after", str(head - 1), "--limit", "3") as follower:
        read_until(fd(follower.stdout), b"}\n")
        steno("run", "--quiet", "--", "echo", "two")
        rest = read_until(fd(follower.stdout), None)
        assert follower.wait(PATIENCE_S) == 0

    assert [json.loads(line)["position"] for line in rest.splitlines()] == [head + 1, head + 2]


@pytest.mark.parametrize(
    "command",
    ["log", "log --json", "log --follow --json", "log --csv", "replay seq --speed max", "replay seq --speed 1000"],
)
def test_head_ends_a_listing_quietly(steno: Steno, command: str) -> None:
    steno("run", "--quiet", "--", "seq", "100000")
    done = steno.shell(f"steno {command} | head -1; echo ${{PIPESTATUS[0]}}")

    first, status = done.out.splitlines()
    assert (bool(first), done.err) == (True, "")
    assert int(status) in (0, 141)


@pytest.mark.parametrize("command", [["log", "--follow"], ["replay", "sh"]])
def test_an_interrupt_ends_whoever_waits_with_130(steno: Steno, command: list[str]) -> None:
    steno("run", "--quiet", "--mode", "pipe", "--", "sh", "-c", "echo first; sleep 1.5")
    with steno.start(*command) as waiting:
        read_until(fd(waiting.stdout), b"first")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(PATIENCE_S) == 130
        assert read_until(fd(waiting.stderr), None) == b""


# -- several at once -----------------------------------------------------------------------------------------------


def test_recorders_and_readers_share_a_home(steno: Steno) -> None:
    starts = [
        ["run", "--quiet", "--name", f"a{number}", "--mode", "pipe", "--", "seq", "-f", f"{number}-%g", "5000"]
        for number in range(4)
    ]
    processes = [steno.start(*argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for argv in starts]
    assert [process.wait(2 * PATIENCE_S) for process in processes] == [0] * 4

    rows = steno.sessions()
    assert len(rows) == 4
    for row in rows:
        number = row.agent[1:]
        assert steno.output(row.session) == b"".join(f"{number}-{i}\n".encode() for i in range(1, 5001))
    assert [e.position for e in steno.events()] == list(range(1, len(steno.events()) + 1))
    assert any(isinstance(e.event, Output) for e in steno.events())
    wait_until(lambda: not list((steno.home / "run").glob("recorder-*")), "their locks are gone")
    steno.verified()
