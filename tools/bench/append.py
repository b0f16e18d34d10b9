"""How fast are events appended, durably, beside the bare storage below and beside others who store events?

Group commit: 64 trio tasks, each of a session of its own, append 20 lines at a time and wait until they are on disk.
The same events through

    bare LMDB      (a) the very records that steno stored, one a 20-line run; (b) one value an event.
                   1,280 events a transaction, keys rising, encoded beforehand: nothing but put and commit is timed
    SQLite         a row an event, 1,280 a transaction, WAL and synchronous=FULL
    eventsourcing  the SQLite recorder of that library, 1,280 events an insert

One append: on a log that is idle, beside one bare LMDB commit of the same value, in turns, 5 ms apart. The bare commit
blocks its program for as long as the disk takes; one that a trio program can await, in a thread, is printed beside.
"""

from __future__ import annotations

import gc
import itertools
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import lmdb
import trio

from eventlog.codec import encode, output_record
from eventlog.events import Output, SessionStarted
from eventlog.log import EventLog, open_log
from eventlog.segment import pack_position
from tools.bench import harness, peers
from tools.bench.harness import BenchError, Limit, Options, Result

EVENTS = 256_000
ROUNDS = 9
TASKS = 64
BATCH = 20
COMMIT_EVENTS = TASKS * BATCH
LIBRARY_EVENTS = 64_000  # for the library, which is slower
SINGLES = 1_000
WARM_UP = 50
APART_S = 0.005
LIMIT = Limit("≥", 0.7)


def results(options: Options) -> Iterator[Result]:
    per_task = -(-(options.size or EVENTS * (8 if options.full else 1)) // COMMIT_EVENTS)
    yield from _group_commit(options.scratch, per_task)
    yield from _one_append(options.scratch, SINGLES * (5 if options.full else 1))


def started(agent: str) -> SessionStarted:
    return SessionStarted(agent, ["bench"], "/", "pipe", 80, 24, "bench", {}, "none", "import")


# -- group commit ------------------------------------------------------------------------------------------------------


def _group_commit(scratch: Path, per_task: int) -> Iterator[Result]:
    events = per_task * COMMIT_EVENTS
    lines = list(itertools.chain.from_iterable(harness.lines_of(events)))
    batches = [[Output("stdout", line) for line in lines[n : n + BATCH]] for n in range(0, events, BATCH)]
    kept = _stored(scratch / "kept", batches, lines)
    runs = _in_transactions(kept, TASKS)
    began_ns = time.time_ns()
    singles = _in_transactions(
        [
            (pack_position(n), encode(output_record(f"bench{n % TASKS}", began_ns, "stdout", [(n, [line])])))
            for n, line in enumerate(lines, 1)
        ],
        COMMIT_EVENTS,
    )
    rows = [
        [(f"bench{n % TASKS}", began_ns, n, line) for n, line in enumerate(lines[at : at + COMMIT_EVENTS], at)]
        for at in range(0, events, COMMIT_EVENTS)
    ]
    latencies_ms: list[float] = []
    commits: list[int] = []
    gc.freeze()  # a million prepared objects are no part of any program that is timed: nobody's collector walks them

    def steno() -> float:
        path = _fresh(scratch / "log")
        took_s, waited_s, committed = trio.run(_append_all, path, batches)
        latencies_ms.extend(1e3 * s for s in waited_s)
        commits.append(committed)
        return events / took_s / 1e6

    def bare(prepared: Sequence[Sequence[peers.Pair]]) -> Callable[[], float]:
        def measure() -> float:
            with peers.bare_lmdb(_fresh(scratch / "bare")) as env:
                return events / peers.put_lmdb(env, prepared) / 1e6

        return measure

    def sqlite() -> float:
        return events / peers.put_sqlite(_fresh(scratch / "sqlite.db"), rows) / 1e6

    def library() -> float:
        insert = peers.eventsourcing_recorder(_fresh(scratch / "eventsourcing.db"))
        assert insert is not None
        few = lines[:LIBRARY_EVENTS]
        given = [
            [(f"bench{n % TASKS}", n // TASKS, line) for n, line in enumerate(few[at : at + COMMIT_EVENTS], at)]
            for at in range(0, len(few), COMMIT_EVENTS)
        ]
        return len(few) / insert(given) / 1e6

    contenders: dict[str, Callable[[], float]] = {
        "steno": steno,
        "bare LMDB, a value a run": bare(runs),
        "bare LMDB, a value an event": bare(singles),
        "SQLite, WAL FULL": sqlite,
    }
    if peers.eventsourcing_recorder(scratch / "probe.db") is not None:
        contenders["eventsourcing's SQLite"] = library
    else:
        harness.warn("eventsourcing is missing: steno is not compared with it. make bench installs it")
    for contender in contenders.values():
        contender()
    latencies_ms.clear()
    commits.clear()
    measured = harness.alternate(contenders, ROUNDS, settle=harness.settle_disk)
    ours = measured.pop("steno")
    note = (
        f"an append waits p50 {harness.quantile(latencies_ms, 0.5):.2g} ms, "
        f"p99 {harness.quantile(latencies_ms, 0.99):.2g} ms; {events / statistics.median(commits):.0f} events a commit"
    )
    for name, theirs in measured.items():
        yield harness.compare(
            ours,
            theirs,
            limit=LIMIT if name.startswith("bare") else None,
            bench="append",
            measure=f"{TASKS} tasks × {BATCH} events",
            unit="M events/s",
            peer=name,
            note=note,
        )
        note = ""
    gc.unfreeze()


async def _append_all(path: Path, batches: Sequence[Sequence[Output]]) -> tuple[float, list[float], int]:
    """Seconds for all *batches* from TASKS tasks, how long each append waited, and the number of commits."""
    waited_s: list[float] = []

    async def append(log: EventLog, session: str, own: Sequence[Sequence[Output]]) -> None:
        elapsed_ns = 0
        for events in own:
            elapsed_ns += 1_000_000
            asked = time.perf_counter()
            await log.append_many(session, events, at_ns=began_ns + elapsed_ns, elapsed_ns=elapsed_ns)
            waited_s.append(time.perf_counter() - asked)

    began_ns = time.time_ns()
    async with open_log(path) as log:
        sessions = [(await log.start_session(started(f"bench{n}"), began_ns))[0] for n in range(TASKS)]
        commits_before = _commits(log)
        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number, session in enumerate(sessions):
                nursery.start_soon(append, log, session, batches[number::TASKS])
        took_s = time.perf_counter() - began
        if log.head() != TASKS + sum(map(len, batches)):
            raise BenchError(f"the head is {log.head()} after {sum(map(len, batches))} events of {TASKS} sessions")
        return took_s, waited_s, _commits(log) - commits_before


def _commits(log: EventLog) -> int:
    statistics_ = log.statistics()
    return statistics_.commits if statistics_ else 0


def _stored(path: Path, batches: Sequence[Sequence[Output]], lines: Sequence[bytes]) -> list[peers.Pair]:
    """The records that steno stores for *batches*, as key and value; all *lines* are in them."""
    trio.run(_append_all, _fresh(path), batches)
    (segment,) = path.iterdir()
    with lmdb.open(str(segment), map_size=0, max_dbs=8, create=False) as env:
        events = env.open_db(b"events", create=False)
        with env.begin() as txn:
            pairs = [(bytes(key), bytes(value)) for key, value in txn.cursor(events)][TASKS:]
    if len(pairs) != len(batches) or sorted(lines)[-1] not in b"".join(value for _, value in pairs):
        raise BenchError(f"{len(pairs)} records for {len(batches)} appends")
    shutil.rmtree(path)
    return pairs


def _in_transactions(pairs: Sequence[peers.Pair], size: int) -> list[Sequence[peers.Pair]]:
    return [pairs[n : n + size] for n in range(0, len(pairs), size)]


def _fresh(path: Path) -> Path:
    """*path*, with nothing there: no directory, no database or its companions."""
    for old in [path, *path.parent.glob(f"{path.name}-*")]:
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    return path


# -- one append --------------------------------------------------------------------------------------------------------


def _one_append(scratch: Path, count: int) -> Iterator[Result]:
    with peers.bare_lmdb(_fresh(scratch / "bare")) as env:
        ours_ms, bare_ms, thread_ms = trio.run(_in_turns, _fresh(scratch / "log"), env, count)
    note = f"{count} of each in turns; mean {statistics.mean(ours_ms):.3g}, max {max(ours_ms):.3g} ms"
    for peer, theirs_ms in (("one bare LMDB commit", bare_ms), ("the same, awaited in a thread", thread_ms)):
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            ours, theirs = harness.quantile(ours_ms, share), harness.quantile(theirs_ms, share)
            result = Result(
                bench="append",
                measure=f"one durable append, idle, {name}",
                unit="ms",
                ours=ours,
                peer=peer,
                theirs=theirs,
                ratio=ours / theirs,
                rounds=count,
                note=note,
            )
            yield harness.judge(result, Limit("≤", 1.3)) if theirs_ms is bare_ms else result
            note = ""


async def _in_turns(path: Path, env: lmdb.Environment, count: int) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of each append, and of a bare commit of the same value: here, and by trio's thread."""
    began_ns = time.time_ns()
    lines = list(itertools.chain.from_iterable(harness.lines_of(count + WARM_UP)))

    async with open_log(path) as log:
        session, _ = await log.start_session(started("bench"), began_ns)

        async def append(number: int, value: bytes) -> None:
            output = Output("stdout", lines[number])
            await log.append(session, output, at_ns=began_ns + number, elapsed_ns=number)

        def commit(key: int, value: bytes) -> None:
            with env.begin(write=True) as txn:
                txn.put(pack_position(key), value, append=True)

        async def commit_here(number: int, value: bytes) -> None:
            commit(2 * number, value)

        async def commit_there(number: int, value: bytes) -> None:
            await trio.to_thread.run_sync(commit, 2 * number + 1, value)

        took_ms: tuple[list[float], list[float], list[float]] = ([], [], [])
        for number, line in enumerate(lines):
            if number % 100 == 0:
                harness.say(f"append {number} of {len(lines)}")
            value = encode(output_record(session, began_ns, "stdout", [(number, [line])]))
            for contender, measured in zip((append, commit_here, commit_there), took_ms, strict=True):
                await trio.sleep(APART_S)
                asked = time.perf_counter()
                await contender(number, value)
                if number >= WARM_UP:
                    measured.append(1e3 * (time.perf_counter() - asked))
    return took_ms


if __name__ == "__main__":
    sys.exit(harness.main("append", __doc__, results, "events"))
