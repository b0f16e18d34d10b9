"""The chain of segments: one log, read and written as if it were one file. Blocking; any thread may read.

An LMDB file never shrinks, so the log is a chain of them and retention deletes whole ones. Whoever finds the live
segment full commits ``sealed`` into it (a commit, so followers wake) and then creates the next; every write first
looks for the mark and goes on in the next where it stands. Without the mark six writers used 5,720 positions twice.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb

from eventlog.codec import TYPES, Record, encode
from eventlog.errors import EventLogError, LogRefusedError, SegmentError
from eventlog.salvage import Salvaged
from eventlog.segment import (
    BLOCK_SHIFT,
    DEFAULT_CAP_BYTES,
    Page,
    Segment,
    WriteTransaction,
    pack_position,
    segment_name,
    segments_in,
)
from eventlog.sessions import Session, fold

READ_BYTES = 1 << 20  # one page of a read: 16 reads of a full pipe, about a millisecond of decoding
CLOSE_S = 1.0  # who still waits for the writer's lock then, in a thread of its own, ends with the process
OPEN_SEGMENTS = 16  # sealed ones kept open: each costs three descriptors

# Where flock, mmap and one page cache do not hold between all who may open the file.
REMOTE_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.s3fs", "virtiofs", "glusterfs"}
)


class Stored:
    """A record on its way: decoded for the fold, encoded for the disk, once."""

    __slots__ = ("count", "record", "value")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.value = encode(record)
        self.count = record.count


AnySegment = Segment | Salvaged  # the second where a file is damaged: what is left of it can be read
Build = Callable[[WriteTransaction], "Sequence[Stored]"]


class Store:
    """An open log directory. One a process: LMDB refuses the same file twice."""

    def __init__(self, directory: Path, *, cap_bytes: int = DEFAULT_CAP_BYTES, create: bool = True) -> None:
        self.directory = directory
        self.cap_bytes = cap_bytes
        self._lock = threading.RLock()
        self._open: dict[int, AnySegment] = {}
        self._rows: dict[str, tuple[bytes, Session]] = {}
        self._newest_first: int | None = None
        refuse_remote(directory)
        if create:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.segments():
            if not create:
                raise EventLogError(f"no log in {directory}")
            Segment.create(directory, 1, log_id=uuid.uuid4().hex, cap_bytes=cap_bytes)
        with self._use(self.segments()[-1]) as live:
            self.log_id = live.log_id

    def close(self, timeout_s: float | None = None) -> None:
        with self._lock:
            for segment in self._open.values():
                segment.close(timeout_s)
            self._open.clear()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close(CLOSE_S)

    # -- the chain -------------------------------------------------------------------------------------------------

    def segments(self) -> list[int]:
        """First positions of the segments that are there, oldest first."""
        return segments_in(self.directory)

    @contextmanager
    def _use(self, first: int, *, write: bool = False) -> Iterator[AnySegment]:
        with self._lock:
            segment = self._open.get(first)
            if write and isinstance(segment, Segment) and not segment.writable:
                self._open.pop(first).close()
                segment = None
            if segment is None:
                if len(self._open) >= OPEN_SEGMENTS:
                    self._open = {key: old for key, old in self._open.items() if not old.close_if_idle()}
                segment = self._open[first] = self._open_segment(first, write)
            use = segment.in_use()
            use.__enter__()
        try:
            yield segment
        finally:
            use.__exit__(None, None, None)

    def _open_segment(self, first: int, writable: bool) -> AnySegment:
        path = self.directory / segment_name(first)
        try:
            return Segment(path, writable=writable)
        except SegmentError as error:
            return Salvaged(path, error, lambda: self._carried_to(first))

    def _carried_to(self, first: int) -> list[tuple[bytes, bytes]]:
        """The session table as the segment before *first* left it."""
        older = [segment for segment in self.segments() if segment < first]
        if not older:
            return []
        with self._use(older[-1]) as segment:
            return segment.session_items()

    def forget(self, first: int) -> None:
        """Close the segment that began at *first* and was deleted, when its last reader here has left it."""
        with self._lock:
            segment = self._open.pop(first, None)
        if segment is not None:
            segment.close()

    def _close_pruned(self, oldest: int) -> None:
        # Another process deleted them: while they are open here, their disk space is not given back.
        with self._lock:
            self._open = {key: old for key, old in self._open.items() if key >= oldest or not old.close_if_idle()}

    @contextmanager
    def using(self, position: int) -> Iterator[AnySegment]:
        """The segment that holds *position*, or will; the oldest where it has been trimmed away."""
        for attempt in range(3):
            segments = self.segments()
            if min(list(self._open), default=segments[0]) < segments[0]:
                self._close_pruned(segments[0])
            first = max((s for s in segments if s <= position), default=segments[0])
            use = self._use(first)
            try:
                segment = use.__enter__()
                break
            except FileNotFoundError:
                if attempt == 2:
                    raise  # pruned between the listing and the opening; twice more is no accident
        try:
            yield segment
        finally:
            use.__exit__(None, None, None)

    @contextmanager
    def live(self) -> Iterator[AnySegment]:
        """The newest segment, to write to; made where its sealed predecessor's writer died before it could."""
        while True:
            last = self.segments()[-1]
            with self._use(last, write=True) as segment:
                following = segment.sealed()
                if following is None:
                    yield segment
                    return
                self._create_next(segment, following)

    def _create_next(self, segment: AnySegment, first: int) -> None:
        if first not in self.segments():
            # The sealed segment takes no more commits, so its session table is final: it is carried on whole.
            Segment.create(
                self.directory,
                first,
                log_id=self.log_id,
                cap_bytes=self.cap_bytes,
                carry=segment.session_items(),
            )

    @contextmanager
    def newest(self) -> Iterator[AnySegment]:
        """The newest segment, sealed or not: for readers, who must get their answer on a full disk too."""
        with self._use(self.segments()[-1]) as segment:
            yield segment

    def reopen(self) -> None:
        """Close every segment, to be opened anew by its next reader: a failed commit may have poisoned one."""
        self.close()  # under the lock: nobody may open a file again before it is closed
        self._rows.clear()

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def damage(self) -> SegmentError | None:
        """Why the newest segment can be read only in part, and not written; None: it can."""
        with self.newest() as segment:
            return segment.error if isinstance(segment, Salvaged) else None

    @property
    def first(self) -> int:
        """The oldest position still kept, or the one that comes first."""
        return self.segments()[0]

    def head(self) -> int:
        with self.newest() as segment:
            return segment.head()

    def read(
        self,
        after: int,
        *,
        max_bytes: int = READ_BYTES,
        session: str | None = None,
        tags: frozenset[int] | None = None,
    ) -> Page:
        """The next page of records after *after*. Its ``position`` is where to read on; at the head it is *after*.

        Raises:
            EventDecodeError: the next record is damaged.
        """
        with self.using(after + 1) as segment:
            return segment.read(max(after, segment.first - 1), max_bytes, session, tags)

    def records(
        self,
        after: int = 0,
        until: int | None = None,
        session: str | None = None,
        kinds: Collection[type] | None = None,
    ) -> Iterator[Record]:
        """Every record after *after* up to the head found at the start, or to *until*, which a record ends at.

        Of one *session*, and of the event classes in *kinds* (``OutputRun`` for output), where they are given.
        """
        tags = None if kinds is None else frozenset(TYPES[kind] for kind in kinds)
        end = self.head() if until is None else until
        while after < end:
            page = self.read(after, session=session, tags=tags)
            for record in page.records:
                if record.last > end:
                    return
                yield record
            if page.position <= after:
                return
            after = page.position

    def sessions(self) -> list[Session]:
        """The session table, oldest first."""
        with self.newest() as segment:
            rows = segment.sessions()
        return sorted(rows, key=lambda row: row.first_position)

    def session(self, session: str) -> Session | None:
        with self.newest() as segment:
            return segment.session(session)

    def session_start(self, session: str, elapsed_ns: int = 0) -> int:
        """A position after which reading *session* meets all of it that is at or after *elapsed_ns*."""
        row = self.session(session)
        best: int | None = None
        segments = self.segments()
        for first, following in zip(segments, [*segments[1:], None], strict=True):
            if row is None or first > row.last_position or (following and following <= row.first_position):
                continue
            with self.using(first) as segment:
                found = segment.position_at(session, elapsed_ns)
            if found is None:
                continue
            position, began_ns = found
            if best is not None and began_ns >= elapsed_ns:
                break
            best = position
        return 0 if best is None else best - 1

    # -- writing ---------------------------------------------------------------------------------------------------

    def append(self, builds: Sequence[Sequence[Stored] | Build]) -> list[list[int]]:
        """Commit all of *builds* in one transaction; for each, the last positions of its records.

        A build that is a function is called inside the transaction with its rows at hand: it decides there what is
        recorded, for instance nothing. All is on disk at return, or nothing is and an error says why.

        Raises:
            lmdb.DiskError: the disk is full; nothing was written and the log stays readable.
        """
        while True:
            with self._newest() as segment:
                if segment.used_bytes() >= segment.cap_bytes and segment.head() >= segment.first:
                    segment.seal()
                try:
                    with segment.write() as txn:
                        if txn is not None:
                            return _put(txn, builds, self._rows)
                except lmdb.MapFullError:
                    self._rows.clear()
                    if segment.head() < segment.first:
                        raise
                    segment.seal()  # a huge batch on a tiny cap: it goes into the next segment
                except BaseException:
                    self._rows.clear()  # folded in place, for a commit that did not come
                    raise
            with self.live() as segment:
                self._newest_first = segment.first

    @contextmanager
    def _newest(self) -> Iterator[AnySegment]:
        """The segment last seen to be live: a write that finds it sealed looks again, most need not."""
        if self._newest_first not in self._open:  # or it was sealed since, pruned and closed
            with self.live() as segment:
                self._newest_first = segment.first
        with self._use(self._newest_first, write=True) as segment:
            yield segment


def _put(
    txn: WriteTransaction, builds: Sequence[Sequence[Stored] | Build], rows: dict[str, tuple[bytes, Session]]
) -> list[list[int]]:
    """Positions are given here, from the last key, inside the transaction: commit order is position order."""
    position = txn.head
    items: list[tuple[bytes, bytes]] = []
    touched: dict[str, Session | None] = {}
    answers: list[list[int]] = []
    for build in builds:
        answer: list[int] = []
        if callable(build):
            _flush(txn, touched, rows)  # it must see what this very batch has recorded
            build = build(txn)
        for stored in build:
            position += stored.count
            record = stored.record
            record.last = position
            items.append((pack_position(position), stored.value))
            answer.append(position)
            session = record.session
            if session is None:
                continue
            row = touched[session] if session in touched else _row(txn, session, rows)
            before = row.last_position if row else 0
            touched[session] = row = fold(row, record)
            block = position >> BLOCK_SHIFT
            if row is not None and (block != before >> BLOCK_SHIFT or before < txn.first):
                txn.put_block(session, block, record.first, record.elapsed_ns)
        answers.append(answer)
    txn.put_records(items)
    _flush(txn, touched, rows)
    return answers


def _row(txn: WriteTransaction, session: str, rows: dict[str, tuple[bytes, Session]]) -> Session | None:
    """The stored row; decoded anew only where another process has written it since."""
    raw = txn.session_raw(session)
    if raw is None:
        return None
    cached = rows.pop(session, None)
    return cached[1] if cached is not None and cached[0] == raw else txn.session(session)[1]


def _flush(txn: WriteTransaction, touched: dict[str, Session | None], rows: dict[str, tuple[bytes, Session]]) -> None:
    for session, row in touched.items():
        if row is not None:
            raw = txn.put_row(row)
            if row.is_open:
                rows[session] = (raw, row)
            else:
                rows.pop(session, None)
    touched.clear()


def refuse_remote(directory: Path) -> None:
    """LMDB needs one kernel's page cache and locks: a network file system is refused by name.

    Raises:
        LogRefusedError: with the file system's type.
    """
    path = directory
    while not path.exists():
        path = path.parent
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if fields[2] == wanted and kind in REMOTE_FILESYSTEMS:
            raise LogRefusedError(directory, f"a log needs a local file system, this one is {kind}")
