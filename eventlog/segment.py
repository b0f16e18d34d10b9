"""One segment of the log: one LMDB environment in a directory named by its first position.

Four databases: ``events`` (key: a record's LAST position, u64 big-endian, so ``set_range(after + 1)`` lands on the
record that holds it), ``sessions`` (the session table), ``blocks`` (session, position >> 12 -> where the session's
first record of that block begins, and when), ``meta`` (format, log id, first position, and once full: ``sealed``).

The block index has an entry where a session first appears in a block of 4,096 positions: as times never fall within a
session, one block's beginning is the bound of the one before. An entry a run cost a third of the append rate.

Blocking, no trio. LMDB syncs data and meta page at every commit; it is never told otherwise.
"""

from __future__ import annotations

import os
import shutil
import struct
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast

import lmdb
import msgspec

from eventlog.codec import TYPE_OFFSET, Record, decode, is_intact, is_of, session_prefix
from eventlog.errors import EventDecodeError, LogFormatError, SegmentError
from eventlog.sessions import Session

FORMAT = 1
DEFAULT_CAP_BYTES = 1 << 30
MAP_FACTOR = 4  # map_size over cap: one commit may pass the cap, none may fill the map
MIN_MAP_BYTES = 64 << 20
MAX_READERS = 1024
LOCK_BYTES = MAX_READERS * 64 + 128  # what LMDB makes of so many readers
BLOCK_SHIFT = 12
NEW = ".new-"  # and the maker's pid: a segment that is being made
BLOCKS_A_READ = 64  # of a session that stands thinly among others: 256k positions, some 10 ms
DIGITS = 20  # u64 in decimal: names sort as numbers do
PASSING_ERRORS = (lmdb.ReadersFullError, lmdb.MemoryError, lmdb.DiskError, lmdb.LockError)  # no damage

pack_position = struct.Struct(">Q").pack
unpack_position = struct.Struct(">Q").unpack
_encode = msgspec.msgpack.Encoder().encode
_decode_row = msgspec.msgpack.Decoder(Session).decode
_decode_meta = msgspec.msgpack.Decoder().decode
_decode_block = msgspec.msgpack.Decoder(tuple[int, int]).decode


class Page(NamedTuple):
    """What one read found.

    records: in order, the first one possibly cut to begin after the position asked for.
    position: everything up to here has been looked at, whatever was filtered away.
    txn_id: the snapshot they were read from.
    """

    records: list[Record]
    position: int
    txn_id: int


def segment_name(first: int) -> str:
    return f"{first:0{DIGITS}d}"


def segments_in(directory: Path) -> list[int]:
    """First positions of the segments that are there, oldest first."""
    return sorted(int(name) for name in os.listdir(directory) if len(name) == DIGITS and name.isdigit())


class Segment:
    """An open segment. Safe to use from several threads; close() waits for readers in flight.

    py-lmdb opens the databases of a writable environment in a write transaction: who only reads would wait for the
    writer's lock, and for ever where its holder is stopped. So a segment is opened read-only unless it is written to.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self.writable = writable
        self.first = int(path.name)
        data = path / "data.mdb"
        if not data.is_file():
            if path.is_dir():
                raise SegmentError(path, "data.mdb is missing")
            raise FileNotFoundError(data)
        if data.stat().st_size == 0:
            raise SegmentError(path, "truncated: data.mdb is empty")  # LMDB would write a new environment into it
        try:
            # map_size 0: LMDB takes it from the file, so it is equal in every process that opens it.
            self._env = lmdb.open(
                str(path), map_size=0, max_dbs=8, max_readers=MAX_READERS, create=False, readonly=not writable
            )
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError) as error:
            raise SegmentError(path, f"not a segment: {error}") from error
        except lmdb.Error as error:
            if not data.is_file():
                raise FileNotFoundError(data) from error  # deleted by retention since we looked
            raise
        self._users = 0
        self._idle = threading.Condition()
        try:
            _keep_from_children(data)
            self._refuse_truncated(data)
            self._env.reader_check()  # a reader killed in its transaction would pin every page freed since, for ever
            self._meta = self._open_db(b"meta")
            self._check_format()
            self._events = self._open_db(b"events")
            self._sessions = self._open_db(b"sessions")
            self._blocks = self._open_db(b"blocks")
        except BaseException as error:
            self._env.close()
            if isinstance(error, lmdb.Error) and not isinstance(error, PASSING_ERRORS):
                raise SegmentError(path, f"not a segment: {error}") from error
            raise
        self.page_bytes: int = self._env.stat()["psize"]

    # -- creation --------------------------------------------------------------------------------------------------

    @staticmethod
    def create(
        directory: Path, first: int, *, log_id: str, cap_bytes: int, carry: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        """Make the segment that begins at *first*; a lost race against another process is not an error.

        It is built under a name no reader looks at and renamed when whole; *carry* is the session table so far.
        """
        final = directory / segment_name(first)
        new = directory / f"{NEW}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        new.mkdir(mode=0o700)
        try:
            _reserve(new / "lock.mdb")
            env = lmdb.open(
                str(new), map_size=max(cap_bytes * MAP_FACTOR, MIN_MAP_BYTES), max_dbs=8, max_readers=MAX_READERS
            )
            try:
                _keep_from_children(new / "data.mdb")
                meta = env.open_db(b"meta")
                for name in (b"events", b"blocks"):
                    env.open_db(name)
                sessions = env.open_db(b"sessions")
                with env.begin(write=True) as txn:
                    for name_, value in (("format", FORMAT), ("log", log_id), ("first", first), ("cap", cap_bytes)):
                        txn.put(name_.encode(), _encode(value), db=meta)
                    txn.cursor(sessions).putmulti(carry)
            finally:
                env.close()
            _sync_directory(new)
            try:
                new.rename(final)
            except OSError:
                if not final.is_dir():
                    raise
            _sync_directory(directory)
        finally:
            shutil.rmtree(new, ignore_errors=True)
            _sweep(directory)

    def _open_db(self, name: bytes) -> lmdb._Database:
        if not self.writable:
            return self._env.open_db(name, create=False)
        # Left to begin its own write transaction py-lmdb waits for the lock with the interpreter's: all threads stop.
        with self._env.begin(write=True) as txn:
            return self._env.open_db(name, txn=txn, create=False)

    def _refuse_truncated(self, data: Path) -> None:
        # A page beyond the end of the file is SIGBUS for whoever touches it, so it is refused before one is touched.
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        size = data.stat().st_size
        if size < needed:
            raise SegmentError(self.path, f"truncated: data.mdb has {size} of {needed} bytes")

    def _check_format(self) -> None:
        try:
            with self._env.begin() as txn:
                meta = {bytes(key).decode(): _decode_meta(value) for key, value in txn.cursor(self._meta).iternext()}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SegmentError(self.path, f"its header is damaged: {error}") from error
        if [type(meta.get(name)) for name in ("format", "first", "log", "cap")] != [int, int, str, int]:
            raise SegmentError(self.path, "its header is missing")
        if meta["format"] > FORMAT:
            raise LogFormatError(meta["format"], FORMAT)
        if meta["first"] != self.first:
            raise SegmentError(self.path, f"its header says it begins at {meta['first']}")
        self.log_id: str = meta["log"]
        self.cap_bytes: int = meta["cap"]

    # -- lifetime --------------------------------------------------------------------------------------------------

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with self._idle:
            self._users += 1
        try:
            yield
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def close_if_idle(self) -> bool:
        with self._idle:
            if self._users:
                return False
            self._env.close()
            return True

    def close(self, timeout_s: float | None = None) -> bool:
        """Close it when its last reader has left; False: not within *timeout_s*, and it stays open."""
        with self._idle:
            if not self._idle.wait_for(lambda: self._users == 0, timeout_s):
                return False
        self._env.close()
        return True

    # -- reading ---------------------------------------------------------------------------------------------------

    def last_txn_id(self) -> int:
        """May run ahead of what a snapshot sees: subscription.py says how to wait by it."""
        return int(self._env.info()["last_txnid"])

    def used_bytes(self) -> int:
        return int(self._env.info()["last_pgno"] + 1) * self.page_bytes

    def head(self) -> int:
        """The last position; ``first - 1`` where the segment is empty."""
        with self._env.begin() as txn:
            return self._head(txn)

    def _head(self, txn: lmdb.Transaction) -> int:
        cursor = txn.cursor(self._events)
        return int(unpack_position(cursor.key())[0]) if cursor.last() else self.first - 1

    def sealed(self) -> int | None:
        """The next segment's first position, once this one is full."""
        with self._env.begin() as txn:
            return self._sealed(txn)

    def _sealed(self, txn: lmdb.Transaction) -> int | None:
        value = txn.get(b"sealed", db=self._meta)
        return None if value is None else _decode_meta(value)

    def read(self, after: int, max_bytes: int, session: str | None = None, tags: frozenset[int] | None = None) -> Page:
        """Records after *after*, until *max_bytes* are read or the end is met.

        Of *session* where one is named, and of the types in *tags* where they are given.
        """
        with self._env.begin() as txn:
            cursor = txn.cursor(self._events)
            if session is None:
                found, position = self._scan(cursor, after, None, b"", tags, max_bytes)
            else:
                found, position = self._scan_blocks(txn, cursor, after, session, tags, max_bytes)
            txn_id = txn.id()
        records: list[Record] = []
        for last, value in found:
            try:
                records.append(decode(last, value))
            except EventDecodeError:
                if not records:
                    raise
                position = records[-1].last  # readable up to the damage; the next read meets it
                break
        if records and records[0].first <= after:
            kept = records[0].after(after)
            records[:1] = [] if kept is None else [kept]
        return Page(records, position, txn_id)

    def _scan(
        self,
        cursor: lmdb.Cursor,
        after: int,
        until: int | None,
        prefix: bytes,
        tags: frozenset[int] | None,
        max_bytes: int,
    ) -> tuple[list[tuple[int, bytes]], int]:
        found: list[tuple[int, bytes]] = []
        position = after
        read_bytes = looked_at = 0
        if cursor.set_range(pack_position(after + 1)):
            for key, value in _pairs(cursor):
                last = unpack_position(key)[0]
                if until is not None and last > until:
                    return found, max(position, until)
                position = last
                looked_at += len(value)
                wanted = (not prefix or is_of(value, prefix)) and (tags is None or value[TYPE_OFFSET] in tags)
                if wanted or not is_intact(value):  # a damaged one may be any session's: decoding it will say so
                    found.append((last, value))
                    read_bytes += len(value)
                if read_bytes >= max_bytes or looked_at >= 16 * max_bytes:
                    return found, position
        return found, position if until is None else max(position, min(until, self._end(cursor)))

    def _end(self, cursor: lmdb.Cursor) -> int:
        return int(unpack_position(cursor.key())[0]) if cursor.last() else self.first - 1

    def _scan_blocks(
        self,
        txn: lmdb.Transaction,
        cursor: lmdb.Cursor,
        after: int,
        session: str,
        tags: frozenset[int] | None,
        max_bytes: int,
    ) -> tuple[list[tuple[int, bytes]], int]:
        """As _scan, but going only where the index says that the session has records."""
        prefix = session_prefix(session)
        found: list[tuple[int, bytes]] = []
        size = 0
        position = after
        blocks = txn.cursor(self._blocks)
        for _ in range(BLOCKS_A_READ):
            block = self._next_block(blocks, session, (position + 1) >> BLOCK_SHIFT)
            if block is None:
                return found, max(position, self._head(txn))
            start = max(position, (block << BLOCK_SHIFT) - 1)
            end = ((block + 1) << BLOCK_SHIFT) - 1
            more, position = self._scan(cursor, start, end, prefix, tags, max_bytes - size)
            found += more
            size += sum(len(value) for _, value in more)
            if position < end or size >= max_bytes:  # the size was reached, or the end of the segment
                break
        return found, position

    @staticmethod
    def _next_block(blocks: lmdb.Cursor, session: str, block: int) -> int | None:
        prefix = session.encode() + b"\0"
        if not blocks.set_range(prefix + pack_position(block)):
            return None
        key = bytes(blocks.key())
        return int(unpack_position(key[len(prefix) :])[0]) if key.startswith(prefix) else None

    def value(self, last: int) -> bytes | None:
        """The stored record that ends at *last*, undecoded."""
        with self._env.begin() as txn:
            return txn.get(pack_position(last), db=self._events)

    def position_at(self, session: str, elapsed_ns: int) -> tuple[int, int] | None:
        """Where to begin to read *session* so as to meet all at or after *elapsed_ns*; None: it is not in here.

        Returns:
            (position, elapsed_ns there), of the last block that begins before *elapsed_ns*, else of its first one.
        """
        prefix = session.encode() + b"\0"
        best: tuple[int, int] | None = None
        with self._env.begin() as txn:
            cursor = txn.cursor(self._blocks)
            if cursor.set_range(prefix):
                for key, value in _pairs(cursor):
                    if not key.startswith(prefix):
                        break
                    found = _decode_block(value)
                    if best is not None and found[1] >= elapsed_ns:
                        break
                    best = found
        return best

    def block(self, session: str, block: int) -> tuple[int, int] | None:
        """Where the index says that *session* begins in *block*, and when: for verify. None: it does not say."""
        with self._env.begin() as txn:
            value = txn.get(session.encode() + b"\0" + pack_position(block), db=self._blocks)
        try:
            return None if value is None else _decode_block(value)
        except msgspec.DecodeError:
            return None

    def session(self, session: str) -> Session | None:
        with self._env.begin() as txn:
            value = txn.get(session.encode(), db=self._sessions)
        return None if value is None else _decode_row(value)

    def sessions(self) -> list[Session]:
        return [_decode_row(value) for _, value in self.session_items()]

    def session_items(self) -> list[tuple[bytes, bytes]]:
        with self._env.begin() as txn:
            return list(_pairs(txn.cursor(self._sessions)))

    def snapshot(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """The head and the session table, still encoded, as one commit left them: for verify."""
        with self._env.begin() as txn:
            return self._head(txn), list(_pairs(txn.cursor(self._sessions)))

    def stored(self) -> Iterator[tuple[int, bytes]]:
        """Every (last position, stored value), in short transactions, undecoded: for verify."""
        after = self.first - 1
        while True:
            with self._env.begin() as txn:
                found, after = self._scan(txn.cursor(self._events), after, None, b"", None, 4 << 20)
            if not found:
                return
            yield from found

    def copy(self, destination: Path) -> None:
        """A consistent, compacted copy in *destination*, an existing empty directory; writers go on meanwhile.

        On disk at return. Through a descriptor of ours: LMDB's own has O_DIRECT, where a disk that is full in the
        middle of a page is EINVAL.
        """
        fd = os.open(destination / "data.mdb", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._env.copyfd(fd, compact=True)
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def write(self) -> Iterator[WriteTransaction | None]:
        """One write transaction, committed durably at the end of the block, on this thread; None: it is sealed."""
        with self._env.begin(write=True) as txn:
            if self._sealed(txn) is not None:
                txn.abort()
                yield None
                return
            yield WriteTransaction(self, txn)

    def seal(self) -> None:
        """Commit that this segment ends here, so that whoever waits for more wakes and goes on in the next."""
        with self._env.begin(write=True) as txn:
            head = self._head(txn)
            if self._sealed(txn) is None and head >= self.first:
                txn.put(b"sealed", _encode(head + 1), db=self._meta)


class WriteTransaction:
    """The open write transaction of a segment: rows to read, records to put. Of one thread, never kept."""

    def __init__(self, segment: Segment, txn: lmdb.Transaction) -> None:
        self._segment = segment
        self._txn = txn
        self.first = segment.first
        self.head = segment._head(txn)

    def session(self, session: str) -> tuple[bytes, Session] | tuple[None, None]:
        """The stored row, raw and decoded."""
        value = self.session_raw(session)
        return (None, None) if value is None else (value, _decode_row(value))

    def session_raw(self, session: str) -> bytes | None:
        return cast("bytes | None", self._txn.get(session.encode(), db=self._segment._sessions))

    def put_records(self, items: list[tuple[bytes, bytes]]) -> None:
        # putmulti(append=True) skips old or duplicate keys without a word: the count is the proof.
        put = self._txn.cursor(self._segment._events).putmulti(items, append=True)
        if put != (len(items), len(items)):
            raise SegmentError(self._segment.path, f"{put[1]} of {len(items)} records were taken")

    def put_row(self, row: Session) -> bytes:
        value = _encode(row)
        self._txn.put(row.session.encode(), value, db=self._segment._sessions)
        return value

    def put_block(self, session: str, block: int, position: int, elapsed_ns: int) -> None:
        key = session.encode() + b"\0" + pack_position(block)
        self._txn.put(key, _encode((position, elapsed_ns)), db=self._segment._blocks, overwrite=False)


def _pairs(cursor: lmdb.Cursor) -> Iterator[tuple[bytes, bytes]]:
    """py-lmdb types both for buffers=True too, which was slower for values under 4 KB and is never asked for here."""
    return cast("Iterator[tuple[bytes, bytes]]", cursor.iternext())


def _reserve(lock: Path) -> None:
    """Give a lock file its blocks. LMDB makes it sparse and maps it: on a full disk the first touch was SIGBUS."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.posix_fallocate(fd, 0, LOCK_BYTES)
    finally:
        os.close(fd)


def _sweep(directory: Path) -> None:
    """Delete what processes left that died while they made a segment."""
    for path in directory.glob(f"{NEW}*"):
        try:
            os.kill(int(path.name.split("-")[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, ValueError):
            pass  # it lives, or the name is none of ours


def _keep_from_children(data: Path) -> None:
    """Close *data* on exec: LMDB sees to that for its lock file alone, and a recorded program had the log open too."""
    wanted = data.stat()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.fstat(int(name)), wanted):
                os.set_inheritable(int(name), False)
        except OSError:
            pass  # the listing's own descriptor, or one that another thread has closed


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
