"""How fast is a recording read back, and how well does replay keep the recorded time?

`steno replay --speed max` of 1.6 M lines into a pipe that is drained, beside a bare process that scans the same log
and decodes each record to its lines: no checksum, no session, no output (peers.py). Wall time with and without the
interpreter's start.

Timing: a session of known gaps, played at 1, 4 and 16 times its speed, by ``eventlog.replay.Replay`` in this process
and by `steno replay` into a pipe whose reader takes the time. A moment's error is how much later it comes than its
recorded distance from the beginning says; for a process, whose beginning is nobody's to know, later than the least
late one. Beside it a bare process that sleeps and writes at the same times: what this machine can do now.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import trio

from eventlog.codec import OutputRun, Record, output_record
from eventlog.events import SessionExited, StateChanged
from eventlog.log import open_log
from eventlog.replay import Replay
from eventlog.store import Store, Stored
from tools.bench import harness
from tools.bench.append import started
from tools.bench.harness import STENO, BenchError, Limit, Options, Result
from tools.bench.record import LINES, make_text, record, session_of, verify

ROUNDS = 9
SPEEDS = (1, 4, 16)
MOMENTS = 300
TAKES_S = 1.5  # of real time, in each round
TIMING_ROUNDS = 3
FULL_FACTOR = 5
LINE = 7  # b"%06d\n"
PEERS = str(Path(__file__).with_name("peers.py"))
# As STENO, and it says how long it took without the interpreter's start and its imports.
REPLAY = """
import sys, time
import tools.cli.replay
from tools.cli.main import main
began = time.perf_counter()
status = main()
print(time.perf_counter() - began, file=sys.stderr)
sys.exit(status)
"""


def results(options: Options) -> Iterator[Result]:
    yield from _max_speed(options)
    yield from _timing(options)


# -- as fast as it goes ------------------------------------------------------------------------------------------------


def _max_speed(options: Options) -> Iterator[Result]:
    harness.say("recording what is replayed")
    text = make_text(options.scratch / "text", options.size or LINES)
    home = options.scratch / "home"
    session = session_of(record(text, home, "--quiet"))
    verify(text, home, session)
    with Store(home / "log", create=False) as store:
        events = sum(record_.count for record_ in store.records(kinds=(OutputRun,)))
    env = harness.environment(home)
    inside: dict[str, list[float]] = {"steno": [], "scan": []}

    def steno() -> float:
        took_s, size, inside_s = _drain([sys.executable, "-c", REPLAY, "replay", session, "--speed", "max"], env)
        if size != text.bytes + text.lines:
            raise BenchError(f"replay wrote {size} bytes of {text.bytes + text.lines}")
        inside["steno"].append(text.lines / inside_s / 1e6)
        return text.lines / took_s / 1e6

    def scan() -> float:
        began = time.perf_counter()
        argv = [sys.executable, PEERS, "scan", str(home / "log")]
        out = subprocess.run(argv, env=env, check=True, capture_output=True).stdout.split()
        took_s = time.perf_counter() - began
        if int(out[0]) != events:
            raise BenchError(f"the peer decoded {out[0]!r} of {events} events")
        inside["scan"].append(text.lines / float(out[1]) / 1e6)
        return text.lines / took_s / 1e6

    contenders: dict[str, Callable[[], float]] = {"steno": steno, "scan": scan}
    for contender in contenders.values():
        contender()
    for values in inside.values():
        values.clear()
    measured = harness.alternate(contenders, ROUNDS * (2 if options.full else 1))
    lines = f"{text.lines / 1e6:.3g} M lines"
    yield harness.compare(
        measured["steno"],
        measured["scan"],
        limit=Limit("≥", 0.5),
        bench="replay",
        measure=f"--speed max, {lines}, to a pipe",
        unit="M lines/s",
        peer="bare scan and decode",
        note=f"{text.bytes / 1e6 / text.lines * statistics.median(measured['steno']) * 1e6:.0f} MB/s of text",
    )
    yield harness.compare(
        inside["steno"],
        inside["scan"],
        bench="replay",
        measure="the same without start-up",
        unit="M lines/s",
        peer="bare scan and decode",
    )


def _drain(argv: Sequence[str], env: dict[str, str]) -> tuple[float, int, float]:
    """Run *argv*: seconds until it has ended, the bytes it wrote, and the seconds it says it took."""
    buffer = bytearray(1 << 20)
    size = 0
    began = time.perf_counter()
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while got := os.readv(process.stdout.fileno(), [buffer]):
            size += got
        errors = process.stderr.read()
        process.wait()
        took_s = time.perf_counter() - began
    if process.returncode:
        raise BenchError(f"{argv[-3:]} ended with {process.returncode}: {errors.decode(errors='replace')}")
    return took_s, size, float(errors.split()[-1])


# -- in its own time ---------------------------------------------------------------------------------------------------


def _timing(options: Options) -> Iterator[Result]:
    home = options.scratch / "timed-home"
    env = harness.environment(home)
    takes_s, count = (TAKES_S * FULL_FACTOR, MOMENTS * FULL_FACTOR) if options.full else (TAKES_S, MOMENTS)
    due_s = schedule(count, takes_s)
    file = options.scratch / "schedule"
    file.write_text("\n".join(map(str, due_s)))
    inside, at_pipe, bare = "in process", "at a pipe", "bare sleep and write"
    for speed in SPEEDS:
        session = trio.run(_make, home / "log", f"paced{speed}", [due * speed for due in due_s])
        errors_ms: dict[str, list[float]] = {inside: [], at_pipe: [], bare: []}
        played: dict[str, Callable[[], list[float]]] = {
            inside: partial(trio.run, _play_inside, home / "log", session, speed, due_s),
            at_pipe: partial(_played, [*STENO, "replay", session, "--speed", str(speed)], env, due_s),
            bare: partial(_played, [sys.executable, PEERS, "pace", str(file)], env, due_s),
        }

        measured = harness.alternate(
            {name: partial(_p99, errors_ms[name], play) for name, play in played.items()}, TIMING_ROUNDS
        )
        for name in (inside, at_pipe):
            ours, theirs = errors_ms[name], errors_ms[bare]
            yield harness.compare(
                measured[name],
                measured[bare],
                limit=Limit("≤", 3, "value", "ms"),
                bench="replay",
                measure=f"{speed}× error p99, {name}",
                unit="ms",
                peer=bare,
                note=f"{TIMING_ROUNDS} × {len(due_s)} moments: p50 {harness.quantile(ours, 0.5):.3f}, "
                f"max {max(ours):.3f} ms, earliest {min(ours):+.3f}; "
                f"bare p50 {harness.quantile(theirs, 0.5):.3f}, max {max(theirs):.3f} ms",
            )


def _p99(kept_ms: list[float], play: Callable[[], list[float]]) -> float:
    errors_ms = play()
    kept_ms += errors_ms
    return harness.quantile(errors_ms, 0.99)


def schedule(count: int, takes_s: float) -> list[float]:
    """*count* times from 50 ms to *takes_s*: bursts and silences, as agents have them."""
    rng = random.Random(harness.SEED)
    gaps = [rng.choice((0.0005, 0.02, 1.0)) * rng.expovariate(1.0) for _ in range(count)]
    scale = (takes_s - 0.05) / sum(gaps)
    times: list[float] = []
    at = 0.05
    for gap in gaps:
        at += gap * scale
        times.append(round(at, 9))
    return times


async def _make(path: Path, agent: str, at_s: Sequence[float]) -> str:
    """A session whose moment n is the line n at ``at_s[n]``, in a log at *path*; its id."""
    began_ns = time.time_ns()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    async with open_log(path) as log:
        session, _ = await log.start_session(started(agent), began_ns)
        records = [
            output_record(session, began_ns, "stdout", [(round(at * 1e9), [b"%06d\n" % number])])
            for number, at in enumerate(at_s)
        ]
        end_ns = round(at_s[-1] * 1e9)
        for event in (
            SessionExited(0, None, end_ns, len(at_s), len(at_s) * LINE, False, {}),
            StateChanged("running", "exited", "exit code 0"),
        ):
            records.append(Record(session, began_ns + end_ns, end_ns, event))
        await log.submit([Stored(record_) for record_ in records])
    return session


async def _play_inside(path: Path, session: str, speed: float, due_s: Sequence[float]) -> list[float]:
    """Milliseconds that each moment of output came too late."""
    errors_ms: list[float] = []
    async with open_log(path, create=False) as log:
        start = log.store.session_start(session)
        began_s = trio.current_time()
        replay = Replay(log.subscribe(after=start, session=session), speed=speed)
        while (due := await replay.next()) is not None:
            now_s = trio.current_time()
            for moment in due:
                if isinstance(moment.record.event, OutputRun):
                    errors_ms.append(1e3 * (now_s - began_s - due_s[int(moment.data)]))
    if len(errors_ms) != len(due_s):
        raise BenchError(f"{len(errors_ms)} of {len(due_s)} moments were played")
    return errors_ms


def _played(argv: Sequence[str], env: dict[str, str], due_s: Sequence[float]) -> list[float]:
    """Milliseconds that each line of *argv* came later than the least late one did."""
    came_s: list[float] = []
    held = b""
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 65_536):
            now_s = time.perf_counter()
            held += data
            for _ in range(len(held) // LINE):
                if int(held[:LINE]) != len(came_s):
                    raise BenchError(f"line {len(came_s)} came as {held[:LINE]!r}")
                held = held[LINE:]
                came_s.append(now_s)
    if process.returncode or len(came_s) != len(due_s):
        raise BenchError(f"{len(came_s)} of {len(due_s)} lines came from {' '.join(argv)}")
    late_s = [came - due for came, due in zip(came_s, due_s, strict=True)]
    return [1e3 * (late - min(late_s)) for late in late_s]


if __name__ == "__main__":
    sys.exit(harness.main("replay", __doc__, results, "lines"))
