"""One session from start to end: what is in the log, in which order, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import lmdb
import pytest
import trio

import eventlog.writer
from eventlog.events import Input, Output, Recorded, Resized, SessionExited, SessionStarted, StateChanged, Stream
from eventlog.log import EventLog, open_log
from eventlog.sessions import Session
from eventlog.verify import verify
from server.recorder.lock import RecorderLock
from server.recorder.process import Exit, SpawnError
from server.recorder.pty import reads_secret
from server.recorder.pump import Pump
from server.recorder.session import LiveSession, Spec
from tests.server.recorder.helpers import PATIENCE_S, descriptors

ROOT = Path(__file__).resolve().parents[3]
AGENT = [sys.executable, "-S", str(ROOT / "tools" / "fake_agent.py"), "--json"]


class Desk:
    """A recorder: its log, its lock, its pump. ``record`` runs one program from start to end."""

    def __init__(self, log: EventLog, recorder: str) -> None:
        self.log = log
        self.recorder = recorder
        self.pump = Pump(log.writer)

    async def start(self, *argv: str, **options: Any) -> LiveSession:
        spec = Spec(agent="agent", argv=list(argv), cwd="/", env={**os.environ, "TERM": "dumb"}, **options)
        return await LiveSession.start(self.log, spec, self.recorder)

    async def finish(self, live: LiveSession) -> Exit:
        with trio.fail_after(PATIENCE_S):
            return await live.run(self.pump, lambda stream, data: None)

    async def record(self, *argv: str, **options: Any) -> tuple[LiveSession, Exit]:
        live = await self.start(*argv, **options)
        live.spawn()
        return live, await self.finish(live)

    def events(self, live: LiveSession | None = None) -> list[Recorded]:
        wanted = live.session if live else None
        return [event for record in self.log.store.records(session=wanted) for event in record.events()]

    def output(self, live: LiveSession, stream: Stream | None = None) -> bytes:
        events = [e.event for e in self.events(live)]
        return b"".join(e.data for e in events if isinstance(e, Output) and stream in (None, e.stream))

    def row(self, live: LiveSession) -> Session:
        row = self.log.store.session(live.session)
        assert row is not None
        return row

    async def seen(self, live: LiveSession, expected: bytes) -> None:
        """Wait until the session's output holds *expected*."""
        await until(lambda: expected in self.output(live), f"{expected!r} is in the log")


async def until(condition: Callable[[], object], why: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.002)
        return
    raise AssertionError(f"not within {PATIENCE_S:g} s: {why}")


@asynccontextmanager
async def desk(home: Path) -> AsyncIterator[Desk]:
    """A recorder whose log keeps every promise at the end of the block."""
    (home / "run").mkdir()
    lock = RecorderLock(home / "run")
    async with open_log(home / "log") as log:
        at = Desk(log, lock.name)
        try:
            yield at
        finally:
            at.pump.close()
    lock.release()
    assert verify(home / "log") == []


def agent(*steps: dict[str, Any]) -> list[str]:
    return [*AGENT, json.dumps({"step": steps})]


def types(events: list[Recorded]) -> list[str]:
    return [type(recorded.event).__name__ for recorded in events]


def exited(events: list[Recorded]) -> SessionExited:
    return next(e.event for e in events if isinstance(e.event, SessionExited))


# -- from start to end ---------------------------------------------------------------------------------------------


async def test_a_session_is_told_from_its_start_to_its_last_state(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        live, exit_ = await at.record("sh", "-c", "echo one; printf two; exit 3", mode="pipe", tags={"task": "42"})
        events = at.events(live)

        assert types(events) == ["SessionStarted", "StateChanged", "Output", "Output", "SessionExited", "StateChanged"]
        started, running, _, _, exited, failed = [recorded.event for recorded in events]
        assert isinstance(started, SessionStarted)
        assert (started.agent, started.argv[0], started.mode) == ("agent", "sh", "pipe")
        assert (started.tags, started.recorder, started.source) == ({"task": "42"}, at.recorder, "cli")
        assert isinstance(running, StateChanged)
        assert (running.from_, running.to, running.pid) == ("starting", "running", live.process and live.process.pid)
        assert isinstance(exited, SessionExited)
        assert (exited.exit_code, exited.signal, exited.lines, exited.bytes) == (3, None, 1, 7)
        assert not exited.output_open
        assert exited.rusage["max_rss_kib"] > 0
        assert failed == StateChanged("running", "failed", "exit code 3")
        assert exit_.status == 3
        assert [e.at_ns - e.elapsed_ns for e in events] == [events[0].at_ns] * 6


@pytest.mark.parametrize(
    ("script", "state", "code", "name"),
    [("exit 0", "exited", 0, None), ("exit 9", "failed", 9, None), ("kill -9 $$", "killed", None, "SIGKILL")],
)
async def test_how_it_ended_is_its_last_state(
    tmp_path: Path, script: str, state: str, code: int | None, name: str | None
) -> None:
    async with desk(tmp_path) as at:
        live, _ = await at.record("sh", "-c", script)
        row = at.row(live)

        assert (row.state, row.exit_code, row.signal) == (state, code, name)
        assert row.ended_at_ns is not None


async def test_the_session_is_on_disk_before_its_child_exists(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        live = await at.start("true")

        assert types(at.events(live)) == ["SessionStarted"]
        assert at.row(live).state == "starting"
        assert live.process is None
        live.spawn()
        await at.finish(live)


async def test_a_program_that_cannot_start_is_a_failed_session_that_says_why(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        live = await at.start("no-such-program")
        with pytest.raises(SpawnError):
            live.spawn()
        at.log.writer.append([])

        assert types(at.events(live)) == ["SessionStarted", "StateChanged"]
        assert at.events(live)[-1].event == StateChanged("starting", "failed", "no-such-program: command not found")


async def test_sessions_of_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        lives = [await at.start("true") for _ in range(5)]
        for live in lives:
            live.spawn()
        for live in lives:
            await at.finish(live)

        assert len({live.session for live in lives}) == 5


async def test_words_that_are_not_text_are_recorded_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")
    async with desk(tmp_path) as at:
        live, _ = await at.record("printf", "%s", odd, mode="pipe", tags={odd: odd})

        assert at.row(live).argv == ["printf", "%s", "caf\ufffd"]
        assert at.row(live).tags == {"caf\ufffd": "caf\ufffd"}
        assert at.output(live) == b"caf\xe9"


# -- output --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["pty", "pipe"])
async def test_output_is_recorded_byte_for_byte(tmp_path: Path, mode: str) -> None:
    data = os.urandom(300_000)
    (tmp_path / "data").write_bytes(data)
    raw = "stty raw -echo; " if mode == "pty" else ""
    async with desk(tmp_path) as at:
        live, _ = await at.record("sh", "-c", f"{raw}cat {tmp_path}/data", mode=mode)

        assert at.output(live) == data
        assert (at.row(live).bytes, at.row(live).lines) == (len(data), data.count(b"\n"))


async def test_a_line_of_10_mb_is_recorded_whole(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        live, _ = await at.record("sh", "-c", "head -c 10000000 /dev/zero; echo", mode="pipe")

        assert at.output(live) == bytes(10_000_000) + b"\n"
        assert at.row(live).lines == 1


async def test_several_sessions_of_one_recorder_keep_their_output_apart(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        lives = [await at.start("sh", "-c", f"seq {number}000 {number}999", mode="pipe") for number in range(1, 5)]
        async with trio.open_nursery() as nursery:
            for live in lives:
                live.spawn()
                nursery.start_soon(at.finish, live)

        for number, live in enumerate(lives, 1):
            assert at.output(live) == b"".join(b"%d%03d\n" % (number, i) for i in range(1000))


async def test_a_grandchild_that_keeps_the_terminal_is_waited_for_2_s_and_not_longer(tmp_path: Path) -> None:
    """What it says in that time is recorded; then the exit is, and says that the output was still open."""
    hold = {"setsid": True, "hold_terminal": True, "seconds": 60, "step": [{"line": "from the grave", "delay_s": 0.5}]}
    async with desk(tmp_path) as at:
        live = await at.start(*agent({"line": "leaving"}, {"spawn": hold | {"print_pid": True}}))
        live.spawn()
        began = time.monotonic()
        exit_ = await at.finish(live)
        took_s = time.monotonic() - began
        said = at.output(live)
        os.kill(int(said.split(b"spawned ")[1].split()[0]), signal.SIGKILL)

        assert exit_.code == 0
        assert b"from the grave\r\n" in said
        assert exited(at.events(live)).output_open
        assert types(at.events(live))[-2:] == ["SessionExited", "StateChanged"]
        assert 2.0 <= took_s <= 2.5 + 0.5  # half a second is the child's own


@pytest.mark.parametrize("mode", ["pty", "pipe"])
async def test_a_child_that_closes_its_output_and_lives_on_is_waited_for(tmp_path: Path, mode: str) -> None:
    async with desk(tmp_path) as at:
        script = "echo bye; exec <&- >&- 2>&-; sleep 0.3; exit 5"
        live, exit_ = await at.record("sh", "-c", script, mode=mode)

        assert exit_.code == 5
        assert at.output(live).split() == [b"bye"]
        assert at.row(live).state == "failed"
        assert at.row(live).duration_ns is not None
        assert cast("int", at.row(live).duration_ns) >= 300_000_000
        assert not exited(at.events(live)).output_open


# -- input ---------------------------------------------------------------------------------------------------------


async def test_an_answer_stands_between_its_prompt_and_what_follows(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start(*agent({"prompt": "Continue? [y/N] ", "expect": "y"}, {"line": "going on"}))
        live.spawn()
        nursery.start_soon(at.finish, live)
        await at.seen(live, b"[y/N] ")
        assert await live.type(b"y\n", "terminal")
        await until(lambda: at.row(live).state == "exited", "it ends")

        told = [e.event.data for e in at.events(live) if isinstance(e.event, Output | Input)]
        assert told == [b"Continue? [y/N] ", b"y\n", b"y\r\n", b"going on\r\n"]


async def test_a_password_is_masked_and_the_next_answer_is_not(tmp_path: Path) -> None:
    steps = [{"secret_prompt": "Password: "}, {"prompt": "Name? ", "echo_answer": True}]
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start(*agent(*steps))
        live.spawn()
        nursery.start_soon(at.finish, live)
        await at.seen(live, b"Password: ")
        await live.type(b"hunter2\n", "terminal")
        await at.seen(live, b"Name? ")
        await live.type(b"Ada\n", "terminal")
        await at.seen(live, b"answer: Ada")

        typed = [e.event for e in at.events(live) if isinstance(e.event, Input)]
        assert [(i.data, i.length, i.masked) for i in typed] == [(None, 8, True), (b"Ada\n", 4, False)]
    assert b"hunter2" not in b"".join(path.read_bytes() for path in (tmp_path / "log").rglob("data.mdb"))


async def test_keys_at_a_shells_prompt_are_not_taken_for_a_password(tmp_path: Path) -> None:
    """bash reads its command line with echo off, but not canonically."""
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("bash", "--norc", "-i")
        live.spawn()
        nursery.start_soon(at.finish, live)
        await live.type(b"PS1='ready> '\n", "terminal")
        await at.seen(live, b"\nready> ")
        assert live.process is not None
        await live.type(b"exit 4\n", "terminal")
        await until(lambda: at.row(live).exit_code == 4, "it ends")

        typed = [e.event for e in at.events(live) if isinstance(e.event, Input)]
        assert all(not i.masked for i in typed)
        assert b"".join(i.data or b"" for i in typed).endswith(b"exit 4\n")


@pytest.mark.parametrize("mode", ["pty", "pipe"])
@pytest.mark.parametrize("sent", [b"", b"one\n", b"one\ntwo", b"no line end"])
async def test_input_is_forwarded_and_then_ends(tmp_path: Path, mode: str, sent: bytes) -> None:
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("sh", "-c", "stty -echo 2>/dev/null; echo ready; cat; echo the end", mode=mode)
        live.spawn()
        nursery.start_soon(at.finish, live)
        await at.seen(live, b"ready")
        if sent:
            await live.type(sent, "stdin")
        with trio.move_on_after(PATIENCE_S):
            await live.end_input() if mode == "pipe" else nursery.start_soon(live.end_input)
        await until(lambda: at.row(live).state == "exited", "cat meets the end")

        assert at.output(live).replace(b"\r", b"") == b"ready\n" + sent + b"the end\n"


async def test_a_terminal_whose_input_has_ended_says_so_to_every_reader(tmp_path: Path) -> None:
    """As a closed pipe does: a second program that reads does not wait for ever."""
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("sh", "-c", "cat; echo one; cat; echo two")
        live.spawn()
        nursery.start_soon(at.finish, live)
        nursery.start_soon(live.end_input)
        await until(lambda: at.row(live).state == "exited", "both met the end")

        assert at.output(live) == b"one\r\ntwo\r\n"


async def test_input_of_a_shell_is_all_run_before_the_end_is_typed(tmp_path: Path) -> None:
    """bash makes its terminal raw as it starts: an end typed at once reached it as a NUL byte, and it waited on."""
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("bash", "--norc", "-i")
        live.spawn()
        nursery.start_soon(at.finish, live)
        await live.type(b"sleep 0.1\necho $((6*7))\n", "stdin")
        nursery.start_soon(live.end_input)
        await until(lambda: at.row(live).state == "exited", "the shell meets the end of its input")

        assert b"42\r\n" in at.output(live)


async def test_no_key_is_typed_into_a_full_screen_program_that_was_given_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        raw = "import tty, os; tty.setraw(0); print('raw', end='', flush=True); print(os.read(0, 9), end='')"
        live = await at.start(sys.executable, "-S", "-c", raw)
        live.spawn()
        nursery.start_soon(at.finish, live)
        await at.seen(live, b"raw")
        with trio.fail_after(PATIENCE_S):
            await live.end_input()
        await live.type(b"k", "terminal")
        await until(lambda: at.row(live).state == "exited", "it got a key")

        assert at.output(live) == b"rawb'k'"


async def test_five_megabytes_through_a_pipe_come_back(tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("cat", mode="pipe")
        live.spawn()
        nursery.start_soon(at.finish, live)
        for begin in range(0, len(data), 65_536):
            await live.wait_for_room()
            assert await live.type(data[begin : begin + 65_536], "stdin")
        await live.end_input()
        await until(lambda: at.row(live).state == "exited", "cat meets the end")

        assert at.output(live) == data
        typed = [e.event for e in at.events(live) if isinstance(e.event, Input)]
        assert b"".join(i.data or b"" for i in typed) == data


async def test_input_in_bulk_waits_for_room_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that reads fast and says nothing: what it is given is recorded too, and must not pile up in memory."""
    monkeypatch.setattr(eventlog.writer, "QUEUE_BYTES", 256 << 10)
    most = 0
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("sh", "-c", "cat >/dev/null", mode="pipe")
        live.spawn()
        nursery.start_soon(at.finish, live)
        append = at.log.store.append

        def slow_append(*args: Any) -> Any:
            nonlocal most
            most = max(most, at.log.writer.statistics().queued_bytes)
            time.sleep(0.01)
            return append(*args)

        at.log.store.append = slow_append  # type: ignore[method-assign]
        for _ in range(80):
            await live.wait_for_room()
            await live.type(bytes(65_536), "stdin")
        await live.end_input()
        await until(lambda: at.row(live).state == "exited", "it ends")

    assert most <= (256 << 10) + 2 * 65_536


async def test_typing_to_a_child_that_is_gone_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        live, _ = await at.record("true")

        assert not await live.type(b"hello?\n", "terminal")
        await live.end_input()
        live.resize(100, 30, "terminal")
        live.interrupt(signal.SIGINT)
        assert types(at.events(live))[-1] == "StateChanged"


async def test_a_child_that_reads_nothing_makes_the_typist_wait_and_its_end_lets_him_go(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("sleep", "0.5", mode="pipe")
        live.spawn()
        nursery.start_soon(at.finish, live)
        with trio.fail_after(PATIENCE_S):
            assert not await live.type(bytes(1_000_000), "stdin")

        await until(lambda: at.row(live).state == "exited", "it ends")
        [typed] = [e.event for e in at.events(live) if isinstance(e.event, Input)]
        assert typed.length == 65_536  # what the pipe took


# -- terminal and signals ------------------------------------------------------------------------------------------


async def test_a_resize_is_recorded_and_reaches_the_child(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start(*agent({"winsize": {"changes": 1}}), cols=80, rows=24)
        live.spawn()
        nursery.start_soon(at.finish, live)
        await at.seen(live, b"80x24")
        live.resize(100, 30, "terminal")
        await at.seen(live, b"100x30")
        await until(lambda: at.row(live).state == "exited", "it ends")

        assert [e.event for e in at.events(live) if isinstance(e.event, Resized)] == [Resized(100, 30, "terminal")]
        assert (at.row(live).cols, at.row(live).rows) == (100, 30)


@pytest.mark.parametrize("mode", ["pty", "pipe"])
async def test_an_interrupt_reaches_the_foreground_job(tmp_path: Path, mode: str) -> None:
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("sh", "-c", "sleep 60; echo still here", mode=mode)
        live.spawn()
        nursery.start_soon(at.finish, live)
        await trio.sleep(0.1)
        live.interrupt(signal.SIGINT)
        await until(lambda: not at.row(live).is_open, "it ends")

        assert (at.row(live).state, at.row(live).signal) == ("killed", "SIGINT")


async def test_the_terminals_modes_can_be_read_while_the_child_runs(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start(*agent({"secret_prompt": "Password: "}))
        live.spawn()
        nursery.start_soon(at.finish, live)
        await at.seen(live, b"Password: ")
        assert live.process is not None
        assert live.process.input_fd is not None
        assert reads_secret(live.process.input_fd)
        tty.setraw(live.process.input_fd)
        assert not reads_secret(live.process.input_fd)
        await live.type(b"x\n", "terminal")


# -- what is left --------------------------------------------------------------------------------------------------


async def test_fifty_sessions_leave_no_descriptor_behind(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.record("true")
        await at.record("true", mode="pipe")
        before = descriptors()
        for number in range(50):
            if number % 10 == 9:
                live = await at.start("no-such-program")
                with pytest.raises(SpawnError):
                    live.spawn()
            else:
                await at.record("true", mode="pipe" if number % 2 else "pty")

        assert descriptors() == before
        assert len(at.log.store.sessions()) == 52


async def test_nothing_a_recorder_has_open_is_passed_on_to_its_children(tmp_path: Path) -> None:
    """The log, its lock, other sessions' terminals: a child sees its own three and what ours were started with."""
    passed_on = {fd for fd in descriptors() if os.get_inheritable(fd)}
    async with desk(tmp_path) as at:
        other = await at.start("sleep", "60")
        other.spawn()
        live, _ = await at.record("ls", "/proc/self/fd", mode="pipe")

        assert len(set(map(int, at.output(live).split())) - passed_on - {0, 1, 2}) == 1  # ls's own, for the directory
        other.interrupt(signal.SIGKILL)
        await at.finish(other)


async def test_an_end_that_cannot_be_written_yet_is_written_when_it_can(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, trio.open_nursery() as nursery:
        live = await at.start("sh", "-c", "echo last words; exit 3")
        append, refusals = at.log.store.append, 3

        def full(builds: Any) -> Any:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise lmdb.DiskError("No space left on device")
            return append(builds)

        at.log.store.append = full  # type: ignore[method-assign]
        live.spawn()
        nursery.start_soon(at.finish, live)
        await until(lambda: at.row(live).state == "failed", "there is room again")

        assert refusals == 0
        assert types(at.events(live)).count("SessionExited") == 1
        assert at.output(live) == b"last words\r\n"
