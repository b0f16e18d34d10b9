"""EventLog: the log as a trio program sees it. ``open_log`` owns its writer and its watch; nothing outlives the block.

Reads are synchronous and short (one page, one transaction, no await inside); writes go to the writer's thread and
come back as positions once they are on disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from eventlog.codec import records_of
from eventlog.decisions import start
from eventlog.events import Event, SessionStarted
from eventlog.segment import DEFAULT_CAP_BYTES
from eventlog.store import Build, Store, Stored
from eventlog.subscription import HeadWatch, Subscription
from eventlog.writer import Statistics, Writer


class EventLog:
    """An open log. Use ``open_log``; ``writer`` and ``store`` are for threads that have no event loop."""

    def __init__(self, store: Store, watch: HeadWatch) -> None:
        self.store = store
        self._watch = watch
        self._token = trio.lowlevel.current_trio_token()
        self._writer: Writer | None = None
        self._closed = False
        self._answered: deque[trio.Event] = deque()

    @property
    def log_id(self) -> str:
        return self.store.log_id

    @property
    def first(self) -> int:
        return self.store.first

    def head(self) -> int:
        return self.store.head()

    @property
    def writer(self) -> Writer:
        """Started by its first user: a reader has no writer's thread."""
        if self._closed:
            raise trio.ClosedResourceError("the log is closed")
        if self._writer is None:
            self._writer = Writer(self.store, self._committed)
        return self._writer

    def _deliver(self) -> None:
        while self._answered:
            self._answered.popleft().set()

    def _committed(self) -> None:
        if not self._watch.awaited:
            return  # waking the event loop at every commit cost a recorder that nobody follows a tenth of its speed
        try:
            self._token.run_sync_soon(self._watch.pulse, idempotent=True)
        except trio.RunFinishedError:
            pass  # the last commits of a program that is on its way out wake nobody

    def statistics(self) -> Statistics | None:
        """The writer's; None where nothing was written."""
        return self._writer.statistics() if self._writer else None

    def subscribe(self, *, after: int, session: str | None = None) -> Subscription:
        """Every event after position *after*, once, in order, and then what comes. 0 is the beginning."""
        return Subscription(self.store, self._watch, after, session)

    async def append(self, session: str | None, event: Event, *, at_ns: int, elapsed_ns: int) -> int:
        """Record *event*; return its position once it is on disk.

        Returns:
            1 for the first event of a log, then without gaps. Readers see it no earlier than we return.
        Raises:
            lmdb.DiskError: the disk is full; nothing was written, and the log stays readable.
            trio.ClosedResourceError: you closed the log.
        Cancellation:
            The event may be recorded or not, never twice.
        """
        return await self.append_many(session, [event], at_ns=at_ns, elapsed_ns=elapsed_ns)

    async def append_many(self, session: str | None, events: Sequence[Event], *, at_ns: int, elapsed_ns: int) -> int:
        """As ``append``, for *events* of one moment in their order: one commit, the last one's position."""
        records = [Stored(record) for record in records_of(session, at_ns, elapsed_ns, events)]
        return (await self.submit(records))[-1]

    async def submit(self, build: Sequence[Stored] | Build) -> list[int]:
        """Record what *build* is, or decides inside the write transaction; the last position of each record."""
        done = trio.Event()
        result: list[list[int] | BaseException] = []

        def answer(value: list[int] | BaseException) -> None:
            result.append(value)
            self._answered.append(done)
            self._token.run_sync_soon(self._deliver, idempotent=True)  # once a commit, not once an append

        self.writer.submit(build, answer)
        await done.wait()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    async def start_session(self, started: SessionStarted, at_ns: int) -> tuple[str, int]:
        """Record that a session began: its id, decided inside the transaction, and the position."""
        chosen: list[str] = []
        positions = await self.submit(start(started, at_ns, chosen))
        return chosen[-1], positions[-1]

    def close(self) -> None:
        """Commit what is queued; while the disk is full this waits."""
        self._closed = True
        if self._writer is not None:
            self._writer.close()


@asynccontextmanager
async def open_log(
    directory: Path, *, cap_bytes: int = DEFAULT_CAP_BYTES, create: bool = True
) -> AsyncIterator[EventLog]:
    """Open the log in *directory*; at the end of the block its queue is on disk and everything is closed.

    Raises:
        LogFormatError, LogRefusedError, SegmentError: why it cannot be opened.
        OSError: the directory cannot be made or read.
    """
    with Store(directory, cap_bytes=cap_bytes, create=create) as store:
        async with trio.open_nursery() as nursery:
            watch = HeadWatch(directory)
            nursery.start_soon(watch.run)
            log = EventLog(store, watch)
            try:
                yield log
            finally:
                with trio.CancelScope(shield=True):  # in a thread: while the disk is full this waits, and others go on
                    await trio.to_thread.run_sync(log.close)
                nursery.cancel_scope.cancel()
