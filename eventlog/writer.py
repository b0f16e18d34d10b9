"""Group commit: one thread owns every write of this process to the log.

Appenders queue; the thread takes all that waits, commits it in one transaction, then answers. The next batch gathers
meanwhile, so batches grow exactly when the disk is slow. After a commit output waits up to 5 ms, or until 256 KB are
queued: a one-event commit writes about 100 KB of pages (unpaced, 100 KB/s of text became 250 MB/s of writes), and the
recorder of a flood spends its time on reading instead of on four times as many commits. What someone waits for
commits at once and takes the queue with it; so does the first event after a pause.

One pinned thread, because an LMDB write transaction belongs to the thread that began it (py-lmdb, "Threads").

When the log cannot be written, those who wait are told, and what was only offered stays queued, in order, and is
tried again: the queue is bounded, so the recorder stops reading and its child waits. Nothing is dropped.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb
import msgspec

from eventlog.segment import Segment, WriteTransaction
from eventlog.store import Build, Store, Stored

BATCH_ITEMS = 2_000
BATCH_BYTES = 4 << 20
QUEUE_BYTES = 4 << 20  # then appenders wait for room: one commit takes all there can be
PACE_S = 0.005
PACE_BYTES = 256 << 10
RETRY_S = 0.25
SLOW_COMMIT_S = 5.0

Answer = Callable[[list[int] | BaseException], None]


class Statistics(msgspec.Struct, frozen=True):
    """Since the writer began. *failing*: why the log cannot be written now, *slow_s*: how long a commit has run."""

    commits: int
    events: int
    bytes: int
    commit_s: float
    queued_bytes: int
    failing: str | None
    slow_s: float


class _Item:
    """What is queued. *stored*: what it records, known for a function only once a transaction has called it."""

    __slots__ = ("answer", "build", "error", "size", "stored")

    def __init__(self, build: Sequence[Stored] | Build, size: int, answer: Answer | None) -> None:
        self.build = build if not callable(build) else self._guarded(build)
        self.stored: Sequence[Stored] = [] if callable(build) else build
        self.error: Exception | None = None
        self.size = size
        self.answer = answer

    def _guarded(self, build: Build) -> Build:
        """*build*, whose failure is its caller's own: others in the same transaction are none the worse for it."""

        def guarded(txn: WriteTransaction) -> Sequence[Stored]:
            self.error, self.stored = None, []
            try:
                self.stored = list(build(txn))
            except lmdb.Error:
                raise  # the log's failure, not the build's
            except Exception as error:
                self.error = error
            return self.stored

        return guarded


class Writer:
    """Takes appends from any thread. *on_commit* is called on the writer's thread after each commit."""

    def __init__(self, store: Store, on_commit: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._on_commit = on_commit
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._urgent = False
        self._closing = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._commits = self._events = self._bytes = 0
        self._commit_s = 0.0
        self._commit_began: float | None = None
        self._committing = threading.Lock()
        self.failing: Exception | None = None
        self._died: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    # -- for appenders ---------------------------------------------------------------------------------------------

    def offer(self, records: Sequence[Stored]) -> None:
        """Queue *records*, whatever the queue holds. It never waits: output asks ``wait_for_room`` first."""
        self._put(_Item(records, sum(len(stored.value) for stored in records), None), urgent=False)

    def submit(self, build: Sequence[Stored] | Build, answer: Answer) -> None:
        """Queue what someone waits for: *answer* gets the positions, or the error that kept it from the log."""
        self._put(_Item(build, 0, answer), urgent=True)

    def _put(self, item: _Item, *, urgent: bool) -> None:
        with self._lock:
            if self._closing or self._died is not None:
                raise RuntimeError("the log is closed") from self._died
            self._queue.append(item)
            self._queued_bytes += item.size
            self._urgent = self._urgent or urgent
            if urgent or len(self._queue) == 1 or self._queued_bytes >= PACE_BYTES:
                self._work.notify()

    def append(self, build: Sequence[Stored] | Build) -> list[int]:
        """Record and wait until it is on disk: for code without an event loop."""
        done = threading.Event()
        result: list[list[int] | BaseException] = []

        def answer(value: list[int] | BaseException) -> None:
            result.append(value)
            done.set()

        self.submit(build, answer)
        done.wait()
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def wait_for_room(self, timeout_s: float | None = None) -> bool:
        """Wait until less than QUEUE_BYTES is queued; False: not within *timeout_s*."""
        if self._queued_bytes < QUEUE_BYTES:
            return True
        with self._lock:
            return self._room.wait_for(lambda: self._queued_bytes < QUEUE_BYTES, timeout_s)

    def statistics(self) -> Statistics:
        with self._lock:
            began = self._commit_began
            return Statistics(
                commits=self._commits,
                events=self._events,
                bytes=self._bytes,
                commit_s=self._commit_s,
                queued_bytes=self._queued_bytes,
                failing=str(self.failing) if self.failing else None,
                slow_s=time.monotonic() - began if began is not None else 0.0,
            )

    @contextmanager
    def between_commits(self, timeout_s: float) -> Iterator[bool]:
        """Hold off commits for as long as the block runs; False: one has been running for longer than *timeout_s*.

        Whoever stops this process must do it here: stopped inside a commit it would hold the log's writer lock.
        """
        held = self._committing.acquire(timeout=timeout_s)
        try:
            yield held
        finally:
            if held:
                self._committing.release()

    def close(self) -> None:
        """Commit what is queued and end; while the log cannot be written this waits."""
        with self._lock:
            self._closing = True
            self._work.notify()
        self._thread.join()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._commit_all()
        except BaseException as error:  # a bug: everybody is told, for with nobody to write all would wait for ever
            with self._lock:
                self._died = error
                left, self._queued_bytes = list(self._queue), 0
                self._queue.clear()
                self._room.notify_all()
            for item in left:
                if item.answer is not None:
                    item.answer(error)
            raise

    def _commit_all(self) -> None:
        quiet_until = 0.0  # output offered before this waits for more
        while True:
            with self._lock:
                self._work.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                self._work.wait_for(self._is_due, max(0.0, quiet_until - time.monotonic()))
                batch = self._take()
            if self._commit(batch):
                quiet_until = time.monotonic() + PACE_S

    def _is_due(self) -> bool:
        return self._urgent or self._closing or self._queued_bytes >= PACE_BYTES

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        size = 0
        while self._queue and len(batch) < BATCH_ITEMS and size < BATCH_BYTES:
            batch.append(self._queue.popleft())
            size += batch[-1].size
        if not self._queue:
            self._urgent = False
        self._commit_began = time.monotonic()
        return batch

    def _commit(self, batch: list[_Item]) -> bool:
        began = time.monotonic()
        try:
            with self._committing:
                answers = self._store.append([item.build for item in batch])
        except lmdb.Error as error:
            settled = self._settle(batch, error)
            if settled is None:
                self._failed(batch, _explained(error, self._store.directory))
                return False
            answers = settled
        except Exception as error:
            self._failed(batch, _explained(error, self._store.directory))
            return False
        with self._lock:
            self._commits += 1
            self._events += sum(stored.count for item in batch for stored in item.stored)
            self._bytes += sum(item.size for item in batch)
            self._commit_s += time.monotonic() - began
            self._commit_began = None
            self.failing = None
            self._queued_bytes -= sum(item.size for item in batch)
            self._room.notify_all()
        for item, answer in zip(batch, answers, strict=True):
            if item.answer is not None:
                item.answer(item.error or answer)
        self._on_commit()
        return True

    def _settle(self, batch: list[_Item], error: lmdb.Error) -> list[list[int]] | None:
        """After an error inside a commit its outcome is unknown until the tail is read again: was it committed?

        The environment may be poisoned (a failed meta write), so it is reopened first. A disk that was full before
        anything was written needs none of this: DiskError says so.
        """
        if isinstance(error, lmdb.DiskError):
            return None
        while True:
            try:
                self._store.reopen()
                return _committed(self._store, batch)
            except Exception as unreadable:  # to guess would be to write twice or to lose
                self.failing = unreadable
                time.sleep(RETRY_S)

    def _failed(self, batch: list[_Item], error: Exception) -> None:
        """Tell those who wait, keep what was offered, in order, and pause before the next try."""
        kept = [item for item in batch if item.answer is None]
        with self._lock:
            self.failing = error
            self._commit_began = None
            self._queue.extendleft(reversed(kept))
            self._queued_bytes -= sum(item.size for item in batch if item.answer is not None)
        for item in batch:
            if item.answer is not None:
                item.answer(error)
        time.sleep(RETRY_S)


def _explained(error: Exception, directory: Path) -> Exception:
    """*error*, or DiskError where a full disk is what it means: LMDB calls a write cut short an I/O error."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if type(error) is lmdb.Error:
        with suppress(OSError):
            space = os.statvfs(directory)
            full = space.f_bavail * space.f_frsize < BATCH_BYTES
    return lmdb.DiskError(f"{error}: the disk is full") if full else error


def _committed(store: Store, batch: list[_Item]) -> list[list[int]] | None:
    """The positions of *batch* where the tail of the log turns out to hold it, else None."""
    values = [stored for item in batch for stored in item.stored]
    if not values or not values[-1].record.last:
        return None
    last = values[-1].record.last
    with store.using(last) as segment:
        if not isinstance(segment, Segment) or segment.value(last) != values[-1].value:
            return None
    return [[stored.record.last for stored in item.stored] for item in batch]
