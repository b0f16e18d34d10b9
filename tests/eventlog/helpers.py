"""What the tests of the log share: events to append, plain ways to read them back, and what other processes run.

Other processes come from a fork server that has never opened a log: an LMDB environment does not survive fork, and a
fresh interpreter for each of a hundred writers would cost more than what is tested.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import msgspec
import trio
from xxhash import xxh32_digest

import eventlog.subscription
import eventlog.writer
from eventlog.codec import Record, output_record, records_of
from eventlog.decisions import start
from eventlog.events import Event, Marker, Output, Recorded, SessionStarted, StateChanged, Stream
from eventlog.log import open_log
from eventlog.store import Store, Stored
from eventlog.writer import Writer

SESSION = "agent-20261122-101500"
BEGAN_NS = 1_795_342_500_000_000_000  # 2026-11-22T10:15:00Z
TINY_CAP_BYTES = 64 << 10  # a fresh segment takes about half of it
PATIENCE_S = 30.0  # how long a condition may take on a busy machine before it counts as never


# -- events --------------------------------------------------------------------------------------------------------


def started(agent: str = "agent", argv: Sequence[str] = ("true",)) -> SessionStarted:
    return SessionStarted(agent, list(argv), "/home/me", "pty", 80, 24, "host", {}, "recorder-1", "cli")


def output(data: bytes, stream: Stream = "pty") -> Output:
    return Output(stream, data)


def stored(session: str | None, *events: Event, elapsed_ns: int = 0) -> list[Stored]:
    """*events* of one moment, as a recorder hands them to the log."""
    return [Stored(record) for record in records_of(session, BEGAN_NS + elapsed_ns, elapsed_ns, events)]


def stored_run(session: str, *reads: tuple[int, list[bytes]], stream: Stream = "pty") -> list[Stored]:
    """One run of output that several reads brought, each with its own elapsed_ns."""
    return [Stored(output_record(session, BEGAN_NS, stream, list(reads)))]


def stored_array(array: list[Any]) -> Stored:
    """A record that a program of another version wrote: *array* is its whole envelope."""
    one = Stored(Record(None, 0, 0, Marker("", "")))
    one.value = sealed_value(array)
    return one


def sealed_value(array: list[Any]) -> bytes:
    body = msgspec.msgpack.encode(array)
    return body + xxh32_digest(body)


def append(store: Store, session: str | None, *events: Event, elapsed_ns: int = 0) -> list[int]:
    """Commit *events*; the last position of each record."""
    [positions] = store.append([stored(session, *events, elapsed_ns=elapsed_ns)])
    return positions


# -- reading back --------------------------------------------------------------------------------------------------


def events_of(records: Sequence[Record] | Iterator[Record]) -> list[Recorded]:
    return [event for record in records for event in record.events()]


def everything(store: Store, after: int = 0, session: str | None = None, max_bytes: int = 1 << 20) -> list[Recorded]:
    """All events after *after*, page by page."""
    found: list[Recorded] = []
    while True:
        page = store.read(after, session=session, max_bytes=max_bytes)
        found += events_of(page.records)
        assert all(after < event.position <= page.position for event in events_of(page.records))
        if page.position == after:
            return found
        after = page.position


def lines_of(events: Sequence[Recorded], session: str | None = None) -> list[bytes]:
    return [e.event.data for e in events if isinstance(e.event, Output) and session in (None, e.session)]


def positions_of(events: Sequence[Recorded]) -> list[int]:
    return [event.position for event in events]


def gapless(events: Sequence[Recorded], first: int = 1) -> bool:
    return positions_of(events) == list(range(first, first + len(events)))


# -- waiting -------------------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object], why: str, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {why}"
        time.sleep(0.001)


# -- other processes -----------------------------------------------------------------------------------------------

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", __name__])


@contextmanager
def running(body: Callable[..., None], *arguments: object) -> Iterator[ForkServerProcess]:
    """*body*, a function of this module, in a process of its own, which does not outlive the block."""
    process = _processes.Process(target=body, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


def pipe() -> tuple[Connection, Connection]:
    return _processes.Pipe()


def received(connection: Connection, why: str) -> Any:
    """The next object that the other process sends."""
    assert connection.poll(PATIENCE_S), f"not within {PATIENCE_S:g} s: {why}"
    return connection.recv()


def numbered_line(name: str, number: int) -> bytes:
    """The *number*-th line that *name* writes: of a length of its own, so that what was lost or mixed up shows."""
    return f"{name} {number} ".encode() + b"." * (number * 37 % 211) + b"\n"


def write_until_killed(directory: Path, name: str, said: Path, cap_bytes: int, seed: int) -> None:
    """Record numbered lines of one session, some of them waited for, and say in *said* what was acknowledged.

    A line of *said*: the number of a line that is on disk, and its position. Written in one write(2): whole or not.
    """
    chance = random.Random(seed)
    fd = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    store = Store(directory, cap_bytes=cap_bytes)
    writer = Writer(store)
    chosen: list[str] = []
    writer.append(start(started(name), BEGAN_NS, chosen))
    os.write(fd, f"{chosen[-1]}\n".encode())
    number = 0
    while True:
        writer.wait_for_room()
        lines = [output(numbered_line(name, number + i)) for i in range(chance.randint(1, 40))]
        number += len(lines)
        records = stored(chosen[-1], *lines, elapsed_ns=number)
        if chance.random() < 0.2:
            position = writer.append(records)[-1]
            os.write(fd, f"{number - 1} {position}\n".encode())
        else:
            writer.offer(records)


def write_lines(directory: Path, name: str, lines: int, cap_bytes: int) -> None:
    """Record *lines* numbered lines of one session, then end."""
    with Store(directory, cap_bytes=cap_bytes) as store:
        writer = Writer(store)
        chosen: list[str] = []
        writer.append(start(started(name), BEGAN_NS, chosen))
        for number in range(lines):
            writer.wait_for_room()
            writer.offer(stored(chosen[-1], output(numbered_line(name, number)), elapsed_ns=number))
            if number % 50 == 49:
                writer.append(stored(chosen[-1], Marker(str(number), name), elapsed_ns=number))
        writer.append(stored(chosen[-1], StateChanged("running", "exited", "done"), elapsed_ns=lines))
        writer.close()


def follow(directory: Path, until_closed: int, answer: Connection) -> None:
    """Follow the log from its beginning until *until_closed* sessions have ended; answer with all that was seen.

    With a safety net of an hour: who sleeps past a commit does not end.
    """
    eventlog.subscription.SAFETY_NET_S = 3600.0
    seen: list[tuple[int, str | None, bytes]] = []

    async def main() -> None:
        left = until_closed
        async with open_log(directory, create=False) as log:
            answer.send("following")
            async for event in log.subscribe(after=0):
                data = event.event.data if isinstance(event.event, Output) else b""
                seen.append((event.position, event.session, data))
                if isinstance(event.event, StateChanged):
                    left -= 1
                if not left:
                    return

    trio.run(main)
    answer.send(seen)


def write_when_told(directory: Path, cap_bytes: int, orders: Connection) -> None:
    """For each length received commit one line of it that begins with the time, in its own transaction."""
    with Store(directory, cap_bytes=cap_bytes) as store:
        while length := orders.recv():
            line = f"{time.monotonic_ns()} ".encode().ljust(length - 1, b".") + b"\n"
            append(store, SESSION, output(line))
            orders.send(len(store.segments()))


def append_line(directory: Path, session: str, line: bytes) -> None:
    with Store(directory, create=False) as store:
        append(store, session, output(line))


def keep_open(directory: Path, answer: Connection) -> None:
    with Store(directory, create=False):
        answer.send("open")
        time.sleep(3600)


def hold_the_lock(directory: Path, answer: Connection) -> None:
    with Store(directory, create=False) as store, store.live() as segment, segment.write():
        answer.send("held")
        time.sleep(3600)


def die_in_a_read_transaction(directory: Path) -> None:
    with Store(directory, create=False) as store, store.newest() as segment:
        with segment._env.begin():
            os.kill(os.getpid(), signal.SIGKILL)


def read_all(directory: Path, answer: Connection) -> None:
    with Store(directory, create=False) as store:
        answer.send(positions_of(everything(store)))


def fail_to_open(directory: Path, create: bool, answer: Connection) -> None:
    try:
        Store(directory, create=create).close()
    except Exception as error:
        answer.send((type(error).__name__, str(error)))


class SmallFiles:
    """As ``ulimit -f``: a write that passes the limit is cut short, one that begins beyond it fails with EFBIG."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def take(self, leave_bytes: int) -> None:
        largest = max(path.stat().st_size for path in self._directory.rglob("data.mdb"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + leave_bytes, resource.RLIM_INFINITY))

    def give_back(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class FullDisk:
    """A ballast file beside the log takes all room but some; deleting it gives the room back."""

    def __init__(self, directory: Path) -> None:
        self._ballast = directory.parent / "ballast"

    def take(self, leave_bytes: int) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:
            while True:
                ballast.write(b"." * 4096)
        os.truncate(self._ballast, max(0, self._ballast.stat().st_size - leave_bytes))

    def give_back(self) -> None:
        self._ballast.unlink()


Room = type[SmallFiles] | type[FullDisk]


def write_without_room(
    directory: Path, cap_bytes: int, room: Room, leaves: Sequence[int], lines: int, answer: Connection
) -> None:
    """Record numbered lines; for each of *leaves* with so much room only, until an append has failed, then with more.

    Answers for each with (what the waiter was told, the head then and after, how many lines were readable then).
    """
    eventlog.writer.RETRY_S = 0.01
    number = 0
    with Store(directory, cap_bytes=cap_bytes) as store:
        writer = Writer(store)
        writer.append(stored(SESSION, started()))
        scarce = room(directory)

        def offer(count: int) -> None:
            nonlocal number
            for _ in range(count):
                if writer.wait_for_room(0):
                    writer.offer(stored(SESSION, output(numbered_line(SESSION, number))))
                    number += 1

        def told() -> Exception | None:
            try:
                writer.append(stored(SESSION, Marker("waited for", "me")))
            except Exception as error:
                return error
            return None

        for leave in leaves:
            offer(20)
            error = told()
            assert error is None, f"there was room: {error!r}"
            scarce.take(leave)
            while error is None:
                offer(lines)
                error = told()
            head = store.head()
            readable = len(lines_of(everything(store)))
            assert store.session(SESSION) is not None
            offer(20)
            scarce.give_back()
            assert told() is None
            answer.send((type(error).__name__, str(error), head, store.head(), readable))
        writer.close()
    answer.send(number)


def numbers(name: str, lines: Sequence[bytes]) -> bool:
    """Whether *lines* are the first that *name* writes: none lost, none twice, none changed."""
    return all(line == numbered_line(name, number) for line, number in zip(lines, count(), strict=False))
