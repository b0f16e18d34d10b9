"""One session from start to end: lock, first event, child, output, input, exit, last event.

The order is the contract's: ``session_started`` is on disk before the child exists and decides its id; the last
output, ``session_exited`` and the last state are on disk before the recorder lets go of its lock.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import lmdb
import msgspec
import trio

from eventlog.clock import Clock
from eventlog.errors import EventLogError
from eventlog.events import Resized, SessionExited, SessionStarted, State, StateChanged, Stream
from eventlog.log import EventLog
from eventlog.store import Stored
from server.recorder.process import Exit, Process, SpawnError, spawn
from server.recorder.pty import end_of_input, has_unread, is_canonical, reads_secret, set_size
from server.recorder.pump import Pump, Source
from server.recorder.recording import Recording

DRAIN_S = 2.0  # how long output of a terminal that someone kept open is still recorded after the child's exit
RETRY_S = 0.25
ROOM_S = 0.005
END_FIRST_S = 0.005  # after an end of input was typed: how soon we look whether it has been read, and how seldom later
END_LAST_S = 0.25

Show = Callable[[Stream, bytes], None]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, as people asked for it. *cols* and *rows* are a terminal's cells."""

    agent: str
    argv: list[str]
    cwd: str
    env: Mapping[str, str]
    mode: Literal["pty", "pipe"] = "pty"
    cols: int = 80
    rows: int = 24
    tags: dict[str, str] = {}
    source: Literal["cli", "api"] = "cli"


class LiveSession:
    """A session while it is recorded. Made by ``start``; ``run`` follows it to its end."""

    def __init__(self, log: EventLog, spec: Spec, session: str, clock: Clock, recorder: str) -> None:
        self.session = session
        self.spec = spec
        self.recorder = recorder
        self.recording = Recording(log.writer, session, clock)
        self.process: Process | None = None
        self._log = log
        self._clock = clock
        self._typed = False
        self._at_line_start = True
        self._ended = False
        self.is_recorded = False  # its end is on disk

    @property
    def child_runs(self) -> bool:
        return self.process is not None and not self._ended

    @classmethod
    async def start(cls, log: EventLog, spec: Spec, recorder: str) -> LiveSession:
        """Record that the session began; no child yet.

        Raises:
            lmdb.DiskError: the log cannot be written, so nothing was started.
        """
        clock = Clock()
        started = SessionStarted(
            agent=spec.agent,
            argv=[_text(argument) for argument in spec.argv],
            cwd=_text(spec.cwd),
            mode=spec.mode,
            cols=spec.cols,
            rows=spec.rows,
            host=os.uname().nodename,
            tags={_text(key): _text(value) for key, value in spec.tags.items()},
            recorder=recorder,
            source=spec.source,
        )
        session, _ = await log.start_session(started, clock.began_ns)
        return cls(log, spec, session, clock, recorder)

    def spawn(self) -> None:
        """Start the child and record its pid; or record why it could not be.

        Raises:
            SpawnError: it is ``failed`` in the log already.
        """
        spec = self.spec
        try:
            self.process = spawn(
                spec.argv, cwd=spec.cwd, env=spec.env, pty=spec.mode == "pty", cols=spec.cols, rows=spec.rows
            )
        except SpawnError as error:
            self.recording.record(StateChanged("starting", "failed", _text(str(error))))
            raise
        self.recording.record(StateChanged("starting", "running", "started", self.process.pid))

    async def run(self, pump: Pump, show: Show) -> Exit:
        """Record the child's output until it has ended and its output too, or 2 s later; the end is on disk then."""
        process = self.process
        assert process is not None
        token = trio.lowlevel.current_trio_token()
        ended = {stream: trio.Event() for stream in process.outputs}
        sources = [
            Source(fd, stream, self.recording, show, lambda e=ended[stream]: token.run_sync_soon(e.set))  # type: ignore[misc]
            for stream, fd in process.outputs.items()
        ]
        for source in sources:
            pump.add(source)
        try:
            exit_ = await process.wait()
            self._ended = True
            duration_ns = self._clock.elapsed_ns()
        finally:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(DRAIN_S):
                    await _all(ended.values())
                left_open = [source for source in sources if not ended[source.stream].is_set()]
                for source in left_open:
                    pump.finish(source)
                await _all(ended.values())
        if pump.error is not None:
            raise pump.error
        with trio.CancelScope(shield=True):
            await self._record_end(exit_, duration_ns, output_open=bool(left_open))
        if process.input_fd is not None:
            trio.lowlevel.notify_closing(process.input_fd)  # whoever still waits to type learns it
        process.close()
        return exit_

    async def _record_end(self, exit_: Exit, duration_ns: int, *, output_open: bool) -> None:
        to: State = "killed" if exit_.signal else "failed" if exit_.code else "exited"
        reason = exit_.signal or f"exit code {exit_.code}"
        while True:
            # Built anew each time: lines and bytes are final only once all output before has been flushed.
            self.recording.flush()
            recording = self.recording
            exited = SessionExited(
                exit_code=exit_.code,
                signal=exit_.signal,
                duration_ns=duration_ns,
                lines=recording.lines,
                bytes=recording.bytes,
                output_open=output_open,
                rusage=exit_.rusage,
            )
            records: list[Stored] = recording.last(exited, StateChanged("running", to, reason))
            try:
                await self._log.submit(records)
                self.is_recorded = True
                return
            except (lmdb.Error, OSError, EventLogError):
                await trio.sleep(RETRY_S)  # a full disk, say: nothing is given up, writer.failing says why we wait

    async def type(self, data: bytes, source: str) -> bool:
        """Give *data* to the child, waiting while its terminal takes no more; False: nobody reads it any more."""
        process = self.process
        view = data
        while view:
            if process is None or process.input_fd is None:
                return False
            try:
                masked = process.is_pty and reads_secret(process.input_fd)
                accepted = self.recording.input(process.input_fd, view, source, masked=masked)
                view = view[accepted:]
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_writable(process.input_fd)
                except (trio.ClosedResourceError, OSError):
                    return False
            except OSError:
                return False
        if data:
            self._typed = True
            self._at_line_start = data.endswith(b"\n")
        return True

    async def wait_for_room(self) -> None:
        """Return when the log takes more: input in bulk is bounded as output is."""
        while not self._log.writer.wait_for_room(0.0):  # noqa: ASYNC110  # room is a thread's condition, not an Event
            await trio.sleep(ROOM_S)

    async def end_input(self) -> None:
        """No more input comes: close the pipe; or type the terminal's end-of-file key once all before it was read.

        Typed earlier, a program that makes its terminal raw (a shell, a REPL) reads it as a NUL byte. A canonical
        terminal always has an end waiting, as a closed pipe has. Into a raw one it is typed once, and never where
        nothing else was: whoever starts a full-screen program on /dev/null did not ask for a key.
        """
        process = self.process
        if process is None or process.input_fd is None:
            return
        if not process.is_pty:
            process.close_input()
            return
        forwarded = self._typed
        pause_s = END_FIRST_S
        while process.input_fd is not None and ((canonical := is_canonical(process.input_fd)) or forwarded):
            if not has_unread(process.input_fd):
                await self.type(end_of_input(process.input_fd, at_line_start=self._at_line_start), "stdin")
                self._at_line_start = True
                if not canonical:
                    return
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, END_LAST_S)

    def resize(self, cols: int, rows: int, source: str) -> None:
        process = self.process
        if process is not None and process.is_pty and process.input_fd is not None:
            set_size(process.input_fd, cols, rows)
            self.recording.record(Resized(cols, rows, source))

    def interrupt(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)


async def _all(events: Iterable[trio.Event]) -> None:
    for event in events:
        await event.wait()


def _text(value: str) -> str:
    """*value* as UTF-8 can hold it: an argument that is not text keeps its readable part."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
