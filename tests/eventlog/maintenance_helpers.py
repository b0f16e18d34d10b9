"""Logs for the tests of verify, salvage, prune and backup: made through the Store, then damaged on disk for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb
import msgspec

from eventlog.codec import Record, encode, output_record
from eventlog.events import Event, SessionExited, SessionStarted, StateChanged
from eventlog.promises import Finding
from eventlog.segment import pack_position, segment_name
from eventlog.sessions import Session
from eventlog.store import Store, Stored
from eventlog.verify import check

ROOT = Path(__file__).parent.parent.parent
BEGAN_NS = 1_795_342_500_000_000_000  # 2026-11-22T10:15:00Z
SECOND_NS = 1_000_000_000
A, B = "a-20261122-101500", "b-20261122-101500"
TINY_CAP = 200_000  # a segment begins with some 50 KB, lock file not counted


# -- records -------------------------------------------------------------------------------------------------------


def started(session: str = A, at_ns: int = BEGAN_NS) -> Record:
    agent = session.partition("-")[0]
    return Record(session, at_ns, 0, SessionStarted(agent, ["x"], "/", "pty", 80, 24, "h", {}, "r", "cli"))


def event(session: str | None, elapsed_ns: int, fact: Event, began_ns: int = BEGAN_NS) -> Record:
    return Record(session, began_ns + elapsed_ns, elapsed_ns, fact)  # type: ignore[arg-type]


def output(elapsed_ns: int, *lines: bytes, session: str = A, began_ns: int = BEGAN_NS) -> Record:
    """A run of one read."""
    return output_record(session, began_ns, "pty", [(elapsed_ns, list(lines))])


def running(session: str = A, elapsed_ns: int = 0) -> Record:
    return event(session, elapsed_ns, StateChanged("starting", "running", "", 4711))


def exited(elapsed_ns: int, lines: int, length: int, session: str = A) -> Record:
    return event(session, elapsed_ns, SessionExited(0, None, elapsed_ns, lines, length, False, {}))


def ended(elapsed_ns: int, session: str = A) -> Record:
    return event(session, elapsed_ns, StateChanged("running", "exited", ""))


def whole_session(session: str = A, lines: int = 20) -> list[Record]:
    """A session that keeps every promise: lines of 10 bytes, two a record, then its end."""
    outputs = [output(n, b"%08d\r\n" % n, b"%08d \n" % n, session=session) for n in range(1, lines // 2 + 1)]
    last = lines // 2 + 1
    return [
        started(session),
        running(session),
        *outputs,
        exited(last, lines, lines * 10, session),
        ended(last, session),
    ]


# -- logs ----------------------------------------------------------------------------------------------------------


def append(store: Store, records: Sequence[Record]) -> list[int]:
    """One commit; the records' last positions."""
    return store.append([[Stored(record) for record in records]])[0]


def log_of(directory: Path, records: Sequence[Record], *, cap_bytes: int = 1 << 30) -> list[int]:
    with Store(directory, cap_bytes=cap_bytes) as store:
        return append(store, records)


def log_of_segments(directory: Path, count: int, *, session: str = A, lines: int = 10) -> list[int]:
    """One running session over *count* segments, each of several commits and of runs long and short; their firsts."""
    with Store(directory, cap_bytes=TINY_CAP) as store:
        append(store, [started(session), running(session)])
        elapsed_ns = 0
        while len(store.segments()) < count or store.head() < store.segments()[-1] + 5 * lines:
            elapsed_ns += SECOND_NS
            small = [b"%05d of %d\n" % (n, elapsed_ns) for n in range(lines)]
            large = [b"%05d" % n + b"." * 1_000 + b"\n" for n in range(lines)]
            append(store, [output(elapsed_ns, *small, session=session), output(elapsed_ns, *large, session=session)])
        return store.segments()


def contents(store: Store) -> list[Record]:
    return list(store.records())


def findings(directory: Path) -> list[Finding]:
    return [item for item in check(directory) if isinstance(item, Finding)]


def promises(found: Sequence[Finding]) -> list[tuple[int, str]]:
    return [(finding.position, finding.promise) for finding in found]


# -- damage --------------------------------------------------------------------------------------------------------


def data_file(directory: Path, first: int = 1) -> Path:
    return directory / segment_name(first) / "data.mdb"


def flip(path: Path, text: bytes) -> None:
    """Change one bit of each copy of *text* in the file, stale pages too."""
    data = bytearray(path.read_bytes())
    at = data.find(text)
    assert at >= 0
    while at >= 0:
        data[at] ^= 1
        at = data.find(text, at)
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def spoil_roots(path: Path, table: bytes) -> None:
    """Make the root page of a table, and of its stale copies, a page of no kind: md_root in mdb.c's ``MDB_db``."""
    data = bytearray(path.read_bytes())
    at = data.find(table + b"\0\0\0\0")  # the name, then 48 bytes of MDB_db, whose md_pad and md_flags are 0
    assert at >= 0
    while at >= 0:
        root = int.from_bytes(data[at + len(table) + 40 : at + len(table) + 48], sys.byteorder)
        if root < len(data) // 4_096:
            data[root * 4_096 + 10] = 0
        at = data.find(table + b"\0\0\0\0", at + 1)
    path.write_bytes(data)


@contextmanager
def raw(directory: Path, first: int = 1, table: bytes = b"events") -> Iterator[Callable[..., bytes | None]]:
    """Write behind the log's back: yields ``put(key)``, ``put(key, value)`` and ``put(key, None)``, which deletes.

    A key is a position, a name or what it is; the old value is returned.
    """
    env = lmdb.open(str(directory / segment_name(first)), map_size=0, max_dbs=8, create=False)
    db = env.open_db(table, create=False)
    unchanged = object()

    def put(key: int | str | bytes, value: object = unchanged) -> bytes | None:
        name = pack_position(key) if isinstance(key, int) else os.fsencode(key)
        with env.begin(write=True, db=db) as txn:
            old = txn.get(name)
            if value is None:
                assert txn.delete(name)
            elif value is not unchanged:
                assert isinstance(value, bytes)
                txn.put(name, value)
        return None if old is None else bytes(old)

    try:
        yield put
    finally:
        env.close()


def replace(directory: Path, last: int, record: Record | bytes, first: int = 1) -> None:
    with raw(directory, first) as put:
        put(last, record if isinstance(record, bytes) else encode(record))


def change_row(directory: Path, session: str, first: int = 1, **changes: object) -> None:
    with raw(directory, first, b"sessions") as put:
        row = msgspec.msgpack.decode(put(session) or b"", type=Session)
        for name, value in changes.items():
            assert getattr(row, name) != value
            setattr(row, name, value)
        put(session, msgspec.msgpack.encode(row))


# -- other processes -----------------------------------------------------------------------------------------------


def elsewhere(code: str, *arguments: object) -> str:
    """Run *code*, which sees ``sys.argv[1:]``, in another process; what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout
