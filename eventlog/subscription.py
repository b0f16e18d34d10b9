"""Catch-up and live as ONE loop: read after my position; where nothing is there, wait until the log has moved.

There is no hand-over between history and live, so there is no seam to lose or repeat an event at. A subscriber is a
cursor: it owns no queue, slows nobody and may stop for a week.

Waiting: a snapshot's ``txn.id()`` is remembered, and the loop sleeps until the environment's ``last_txnid`` exceeds
it; then it reads again, 0.2 ms apart, while the new snapshot is still the old one. Taking ``last_txnid`` itself for
"what I have read" slept past 308 of 1,150 commits, for it runs ahead of what a snapshot sees.

Wake-ups come from this process' writer, from inotify on the live segment's data.mdb and on the log's directory (LMDB
writes with pwrite(2), which inotify reports), and every 500 ms from nobody at all, as a safety net.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from eventlog.codec import Record
from eventlog.events import Recorded
from eventlog.segment import segment_name
from eventlog.store import READ_BYTES, Store

if TYPE_CHECKING:
    from inotify_simple import INotify

SAFETY_NET_S = 0.5
POLL_S = 0.02  # where inotify is not to be had
SNAPSHOT_RETRY_S = 0.0002


class HeadWatch:
    """One inotify descriptor a process, however many subscriptions wait on it; none where nobody does.

    A user has 128 of them (fs.inotify.max_user_instances): whoever gets none polls, and says nothing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._inotify: INotify | None = None
        self._begun = trio.Event()
        self._followed: dict[int, int] = {}
        self._moved = trio.Event()
        self.awaited = False  # whether anyone waits for the next movement
        self.safety_net_s = SAFETY_NET_S

    def follow(self, first: int) -> None:
        """Also wake for commits to the segment that begins at *first*; older ones take no more of them."""
        from inotify_simple import INotify, flags  # 45 ms that a recorder nobody follows need not pay

        if not self._begun.is_set():
            self._begun.set()
            with self._or_poll():
                self._inotify = INotify(nonblocking=True)
                self._inotify.add_watch(self._directory, flags.CREATE | flags.MOVED_TO)
        if first in self._followed or self._inotify is None:
            return
        path = self._directory / segment_name(first) / "data.mdb"
        with self._or_poll():
            self._followed[first] = self._inotify.add_watch(path, flags.MODIFY)
        for old in [key for key in self._followed if key < first - 1 and len(self._followed) > 4]:
            try:
                self._inotify.rm_watch(self._followed.pop(old))
            except OSError:
                pass  # the segment was deleted, and its watch with it

    @contextmanager
    def _or_poll(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # EMFILE, ENOSPC: the user's instances or watches are used up
            self.safety_net_s = POLL_S

    def moved(self) -> trio.Event:
        """Set at the next movement: take it BEFORE looking whether there is something to read."""
        self.awaited = True
        return self._moved

    def pulse(self) -> None:
        """Wake all who wait. On trio's thread."""
        self.awaited = False
        self._moved.set()
        self._moved = trio.Event()

    async def run(self) -> None:
        """Turn inotify's events into wake-ups, until cancelled."""
        try:
            await self._begun.wait()
            while self._inotify is not None:
                await trio.lowlevel.wait_readable(self._inotify.fileno())
                os.read(self._inotify.fileno(), 65_536)  # which file it was does not matter: all waiters look
                self.pulse()
        finally:
            if self._inotify is not None:
                self._inotify.close()


class Subscription:
    """A cursor on the log: iterate it for events, or call ``batch`` for the records of one read.

    ``position`` is where the last batch ended, and where to resume after it; who takes single events resumes at the
    last one's own. ``caught_up`` is true while the last read found nothing more.
    """

    def __init__(
        self, store: Store, watch: HeadWatch, after: int, session: str | None, max_bytes: int = READ_BYTES
    ) -> None:
        self._store = store
        self._watch = watch
        self._session = session
        self._max_bytes = max_bytes
        self._events: Iterator[Recorded] = iter(())
        self.position = after
        self.caught_up = False

    def seek(self, after: int) -> None:
        """Go on after *after*, which may lie before what has been read."""
        self.position = after
        self.caught_up = False
        self._events = iter(())

    def head(self) -> int:
        return self._store.head()

    async def batch(self) -> list[Record]:
        """The next records in order, each exactly once; waits for some."""
        while True:
            records = await self.next()
            if records:
                return records

    async def next(self) -> list[Record]:
        """As ``batch``, but returns [] whenever all there is has been read: the caller has caught up."""
        while True:
            await trio.lowlevel.checkpoint()  # before the read: a cancellation after it would lose what was read
            with self._store.using(self.position + 1) as segment:
                page = segment.read(max(self.position, segment.first - 1), self._max_bytes, self._session)
                first = segment.first
            if page.position > self.position:
                self.position = page.position
                if page.records:
                    self.caught_up = False
                    return page.records
            elif not self.caught_up:
                self.caught_up = True
                return []
            else:
                await self._wait(first, page.txn_id)

    async def _wait(self, first: int, txn_id: int) -> None:
        """Return when the log may hold more than the snapshot *txn_id* of segment *first* did."""
        self._watch.follow(first)
        moved = self._watch.moved()
        with self._store.using(self.position + 1) as segment:
            if segment.first != first:
                return
            ahead = segment.last_txn_id() > txn_id
        if ahead:
            await trio.sleep(SNAPSHOT_RETRY_S)
            return
        with trio.move_on_after(self._watch.safety_net_s):
            await moved.wait()

    def __aiter__(self) -> AsyncIterator[Recorded]:
        return self

    async def __anext__(self) -> Recorded:
        while True:
            for event in self._events:
                return event
            self._events = (event for record in await self.batch() for event in record.events())
