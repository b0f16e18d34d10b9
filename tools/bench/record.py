"""How fast does steno record a flood from a terminal, beside script(1) and asciinema, and in how much memory?

    steno run -- cat FILE >/dev/null        in a fresh home: durable, an event a line
    script -q -c "cat FILE" OUT >/dev/null  no durability, no events; near the kernel's own limit for terminals
    asciinema rec -q -c "cat FILE" OUT      PyPI's 2.4: an event a read, no durability

Wall time from before the start of the program to after its end, so steno's own start (about 0.2 s) counts. Each
recording of steno's is replayed afterwards and must be the file's bytes, LF made CRLF by the terminal.

Memory is anonymous RSS, for mapped log pages count as resident: of every steno process while it records, in a run of
its own. Pipe mode beside `cat FILE > OUT`, which does nothing but copy, says what is left when no terminal limits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tools.bench import harness
from tools.bench.harness import STENO, BenchError, Limit, Options, Result

LINES = 1_600_000
FULL_LINES = 18_500_000  # 1 GB
ROUNDS = 5
PIPE_ROUNDS = 3
MEGABYTE = 1e6
FLAT_MB = 4  # an allocator's noise
SAMPLE_S = 0.1
BEGUN_BYTES = 1 << 20  # the log's file has grown by that much: it records


class Text(NamedTuple):
    """A file of lines. *sha256*: of what a terminal makes of it."""

    path: Path
    lines: int
    bytes: int
    sha256: str


def make_text(path: Path, lines: int) -> Text:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in harness.lines_of(lines):
            data = b"".join(chunk)
            file.write(data)
            digest.update(data.replace(b"\n", b"\r\n"))
    return Text(path, lines, path.stat().st_size, digest.hexdigest())


def record(text: Text, home: Path, *options: str, **extra: str) -> harness.Ran:
    """Record ``cat text`` in the fresh *home*; verified by whoever wants it to be."""
    shutil.rmtree(home, ignore_errors=True)
    return harness.run([*STENO, "run", *options, "--", "cat", str(text.path)], harness.environment(home, **extra))


def session_of(ran: harness.Ran) -> str:
    return ran.stderr.split("\n")[-2]


def verify(text: Text, home: Path, session: str, *, as_terminal: bool = True) -> None:
    """Raise BenchError unless *session* replays to the bytes of *text* and has all its lines."""
    env = harness.environment(home)
    digest = hashlib.sha256()
    with subprocess.Popen([*STENO, "replay", session, "--speed", "max"], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 1 << 20):
            digest.update(data if as_terminal else data.replace(b"\n", b"\r\n"))
    row = json.loads(subprocess.run([*STENO, "show", session, "--json"], env=env, stdout=subprocess.PIPE).stdout)
    if process.returncode or digest.hexdigest() != text.sha256 or row["lines"] != text.lines:
        raise BenchError(f"{session} is not what was recorded: {row['lines']} of {text.lines} lines, or other bytes")


def results(options: Options) -> Iterator[Result]:
    harness.say("making the text")
    text = make_text(options.scratch / "text", options.size or LINES)
    rounds = ROUNDS * (2 if options.full else 1)
    yield from _terminal(text, options.scratch, rounds)
    yield from _memory(text, options)
    yield _pipe(text, options.scratch)


# -- speed -------------------------------------------------------------------------------------------------------------


def _terminal(text: Text, scratch: Path, rounds: int) -> Iterator[Result]:
    cpu_s: dict[str, list[float]] = {}
    out = scratch / "peer.out"
    home = scratch / "home"

    def steno() -> float:
        ran = record(text, home)
        cpu_s.setdefault("steno", []).append(ran.cpu_s)
        verify(text, home, session_of(ran))
        shutil.rmtree(home)
        return ran.wall_s

    def peer(name: str, argv: list[str]) -> Callable[[], float]:
        def measure() -> float:
            ran = harness.run(argv, harness.environment(home))
            cpu_s.setdefault(name, []).append(ran.cpu_s)
            if out.stat().st_size < text.bytes:
                raise BenchError(f"{name} recorded {out.stat().st_size} of {text.bytes} bytes")
            out.unlink()
            return ran.wall_s

        return measure

    command = f"cat {text.path}"
    contenders: dict[str, Callable[[], float]] = {"steno": steno}
    if shutil.which("script"):
        contenders["script(1)"] = peer("script(1)", ["script", "-q", "-c", command, str(out)])
    else:
        harness.warn("script(1) is missing: steno is not compared with it. apt-get install bsdutils")
    if asciinema := _asciinema():
        contenders["asciinema"] = peer("asciinema", [*asciinema, "rec", "-q", "--overwrite", "-c", command, str(out)])
    else:
        harness.warn("asciinema is missing: steno is not compared with it. make bench installs it")
    for contender in contenders.values():
        harness.say("warming up")
        contender()
    cpu_s.clear()

    measured = harness.alternate(contenders, rounds, settle=harness.settle_disk)
    speeds = {name: [text.bytes / MEGABYTE / s for s in walls] for name, walls in measured.items()}
    kernel, other = speeds.get("script(1)"), speeds.get("asciinema")
    itself = ""
    if kernel and other:
        share = statistics.median(harness.ratios(other, kernel))
        itself = f"; asciinema itself ran at {share:.2f} × script(1)'s speed, 0.25 × where the limit was set"
    for name, limit in (("script(1)", Limit("≥", 0.6)), ("asciinema", Limit("≥", 2.4))):
        told = [f"{who} {statistics.median(cpu_s[who]):.2f} s" for who in ("steno", name) if who in cpu_s]
        yield harness.compare(
            speeds["steno"],
            speeds.get(name),
            limit=limit,
            bench="record",
            measure=f"{text.bytes / MEGABYTE:.0f} MB, {text.lines / 1e6:.3g} M lines, terminal",
            unit="MB/s",
            peer=name,
            note=f"CPU with cat's: {', '.join(told)}{itself if name == 'asciinema' else ''}",
        )


def _asciinema() -> list[str] | None:
    beside = Path(sys.executable).parent / "asciinema"
    return [str(beside)] if beside.exists() else [found] if (found := shutil.which("asciinema")) else None


def _pipe(text: Text, scratch: Path) -> Result:
    home = scratch / "home"
    out = scratch / "copy"

    def steno() -> float:
        ran = record(text, home, "--mode", "pipe")
        verify(text, home, session_of(ran), as_terminal=False)
        shutil.rmtree(home)
        return ran.wall_s

    def copy() -> float:
        with out.open("wb") as file:
            ran = harness.run(["cat", str(text.path)], harness.environment(home), stdout=file.fileno())
        out.unlink()
        return ran.wall_s

    measured = harness.alternate({"steno": steno, "cat": copy}, PIPE_ROUNDS, settle=harness.settle_disk)
    speeds = {name: [text.bytes / MEGABYTE / s for s in walls] for name, walls in measured.items()}
    return harness.compare(
        speeds["steno"],
        speeds["cat"],
        bench="record",
        measure="the same, --mode pipe",
        unit="MB/s",
        peer="cat FILE > OUT",
        note="for information: the copy is not durable, reads no line and starts in a millisecond",
    )


# -- memory ------------------------------------------------------------------------------------------------------------


def _memory(text: Text, options: Options) -> Iterator[Result]:
    long = options.full and options.size is None
    if long:
        harness.say("making 1 GB of text")
        text = make_text(options.scratch / "long-text", FULL_LINES)
    home = options.scratch / "home"
    mark = uuid.uuid4().hex
    samples: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            if sum(file.stat().st_blocks * 512 for file in home.glob("log/*/data.mdb")) > BEGUN_BYTES:
                samples.append(_anonymous_bytes(f"BENCH_MARK={mark}".encode()) / MEGABYTE)

    harness.say(f"memory while {text.bytes / MEGABYTE:.0f} MB are recorded")
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ran = record(text, home, BENCH_MARK=mark)
    finally:
        done.set()
        watcher.join()
    verify(text, home, session_of(ran))
    shutil.rmtree(home)
    if long:
        text.path.unlink()
    if not samples:
        raise BenchError("too short a recording to see its memory")
    third = max(1, len(samples) // 3)
    first, last = statistics.median(samples[:third]), statistics.median(samples[-third:])
    size = f"{text.bytes / MEGABYTE:.0f} MB"
    yield harness.judge(
        Result(
            bench="record",
            measure=f"peak anonymous RSS, {size}, terminal",
            unit="MB",
            ours=max(samples),
            rounds=len(samples),
            note=f"{len(samples)} samples of all steno processes, {SAMPLE_S} s apart",
        ),
        Limit("≤", 80, "value", "MB"),
    )
    growth = Result(
        bench="record",
        measure=f"its last third over its first, {size}",
        unit="MB",
        ours=last - first,
        rounds=len(samples),
        note=f"medians {first:.1f} and {last:.1f} MB" + ("" if long else "; of 2 s: --full records for long enough"),
    )
    yield harness.judge(growth, Limit("≤", FLAT_MB, "value", "MB")) if long else growth


def _anonymous_bytes(mark: bytes) -> int:
    """Of all processes that run our Python and carry *mark* in their environment."""
    python = os.path.realpath(sys.executable)
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        process = Path("/proc") / name
        try:
            if os.path.realpath(os.readlink(process / "exe")) != python:
                continue
            if mark not in (process / "environ").read_bytes().split(b"\0"):
                continue
            for line in (process / "smaps_rollup").read_text().splitlines():
                if line.startswith("Anonymous:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue  # it has just ended, or is not ours
    return total


if __name__ == "__main__":
    sys.exit(harness.main("record", __doc__, results, "lines"))
