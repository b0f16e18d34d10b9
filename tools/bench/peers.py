"""What steno is compared with: the least that does the same work, without steno's promises.

Also a program of its own for the peers that are whole processes. They import nothing of steno's, and only what they
need, because their start is part of what is timed:

    python peers.py scan LOG_DIRECTORY     decode every line of a log; prints "<lines> <seconds without the start>"
    python peers.py pace FILE              sleep until each time in FILE (seconds, one a line), then write a line
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import lmdb

Pair = tuple[bytes, bytes]
MAP_BYTES = 4 << 30


def bare_lmdb(path: Path) -> lmdb.Environment:
    """An environment that is opened as steno opens its own: every commit is synced."""
    import lmdb

    path.mkdir()
    return lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=8, max_readers=1024)


def put_lmdb(env: lmdb.Environment, batches: Sequence[Sequence[Pair]]) -> float:
    """Seconds to put *batches*, keys rising, each durable in a transaction of its own."""
    began = time.perf_counter()
    for batch in batches:
        with env.begin(write=True) as txn:
            txn.cursor().putmulti(batch, append=True)
    return time.perf_counter() - began


def put_sqlite(path: Path, batches: Sequence[Sequence[tuple[str, int, int, bytes]]]) -> float:
    """Seconds to insert *batches* of (session, at, elapsed, line), each durable: WAL, synchronous=FULL."""
    import sqlite3

    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE events (position INTEGER PRIMARY KEY, session, at_ns, elapsed_ns, data BLOB)")
    began = time.perf_counter()
    for batch in batches:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO events (session, at_ns, elapsed_ns, data) VALUES (?, ?, ?, ?)", batch)
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return took


def eventsourcing_recorder(path: Path) -> Callable[[Sequence[Sequence[tuple[str, int, bytes]]]], float] | None:
    """A function that inserts batches of (originator, version, state) and says how long it took; None: not installed.

    The recorder of PyPI's `eventsourcing`, as it comes: SQLite in WAL mode, synchronous as SQLite was built (FULL).
    """
    from importlib import import_module

    try:
        module: Any = import_module("eventsourcing.sqlite")
        stored_event: Any = import_module("eventsourcing.persistence").StoredEvent
    except ImportError:
        return None
    recorder = module.SQLiteApplicationRecorder(module.SQLiteDatastore(str(path), originator_id_type="text"))
    recorder.create_table()

    def insert(batches: Sequence[Sequence[tuple[str, int, bytes]]]) -> float:
        events = [[stored_event(of, version, "Output", state) for of, version, state in batch] for batch in batches]
        began = time.perf_counter()
        for batch in events:
            recorder.insert_events(batch)
        took = time.perf_counter() - began
        recorder.datastore.close()
        return took

    return insert


def scan(log: str) -> None:
    """Decode each line of each record of *log*; checksums, sessions and order are nobody's concern."""
    import lmdb
    import msgspec

    began = time.perf_counter()
    decode = msgspec.msgpack.Decoder(
        tuple[int, int, str | None, int, int, tuple[int, str, list[tuple[int, list[bytes]]]]]  # codec.py, a run
    ).decode
    lines = 0
    for segment in sorted(name for name in os.listdir(log) if name.isdigit()):
        env = lmdb.open(os.path.join(log, segment), map_size=0, max_dbs=8, create=False)
        events = env.open_db(b"events", create=False)
        with env.begin() as txn:
            for value in txn.cursor(events).iternext(keys=False, values=True):
                if value[2] != 2:  # the tag of output
                    continue
                for _, read in decode(value[:-4])[5][2]:
                    lines += len(read)
        env.close()
    print(lines, time.perf_counter() - began)


def pace(schedule: str) -> None:
    """Write a numbered line at each time of the file *schedule*, seconds from now: what this machine's sleep can do."""
    due = [float(line) for line in Path(schedule).read_text().split()]
    began = time.perf_counter()
    for number, due_s in enumerate(due):
        wait_s = began + due_s - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        os.write(1, b"%06d\n" % number)


if __name__ == "__main__":
    {"scan": scan, "pace": pace}[sys.argv[1]](sys.argv[2])
