"""What every bench shares: rounds in turn with the peer, limits, the facts of this machine, printing.

A bench is a module whose docstring asks its question, with ``results(options)`` that yields a ``Result`` a measure.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = 20_261_122
LINE_BYTES = 54  # 53 and a line feed: the mean of the agents' output the speed goals were set with
STENO = (sys.executable, "-c", "import sys; from tools.cli.main import main; sys.exit(main())")  # as the installed one


class BenchError(Exception):
    """Something did not do what it was timed at: no figure is better than a wrong one."""


# -- limits and results ------------------------------------------------------------------------------------------------


class Limit(NamedTuple):
    """What a measure must reach. *of*: its ratio to the peer, its own value, or how much it exceeds the peer's."""

    sign: Literal["≥", "≤"]
    value: float
    of: Literal["ratio", "value", "excess"] = "ratio"
    unit: str = "×"

    def __str__(self) -> str:
        return f"{self.sign} {'peer + ' if self.of == 'excess' else ''}{number(self.value)} {self.unit}"


class Result(msgspec.Struct, kw_only=True):
    """One measure. *ours* and *theirs* are medians in *unit*; *ratio* is the median of the rounds' ratios.

    *ratio* is of speeds where the limit is a ``≥`` (higher is better), of times or sizes elsewhere. *low*, *high*: its
    range over the rounds. *met*: None where nothing was promised.
    """

    bench: str
    measure: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    limit: str = ""
    met: bool | None = None
    rounds: int = 1
    note: str = ""


def judge(result: Result, limit: Limit) -> Result:
    """*result* with *limit* and whether it was met; a peer that is missing leaves that open."""
    result.limit = str(limit)
    excess = None if result.theirs is None else result.ours - result.theirs
    value = {"ratio": result.ratio, "value": result.ours, "excess": excess}[limit.of]
    if value is not None:
        result.met = value >= limit.value if limit.sign == "≥" else value <= limit.value
    return result


def compare(
    ours: Sequence[float],
    theirs: Sequence[float] | None,
    *,
    bench: str,
    measure: str,
    unit: str,
    peer: str,
    note: str = "",
    limit: Limit | None = None,
) -> Result:
    """The result of rounds in turn, one value each a round; *theirs* None: the peer is missing."""
    result = Result(
        bench=bench,
        measure=measure,
        unit=unit,
        ours=statistics.median(ours),
        peer=peer if theirs else f"{peer} is MISSING",
        rounds=len(ours),
        note=note,
    )
    if theirs:
        result.theirs = statistics.median(theirs)
        found = ratios(ours, theirs)
        result.ratio, result.low, result.high = statistics.median(found), min(found), max(found)
    return judge(result, limit) if limit else result


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of what was measured in the same round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that *share* of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def number(value: float) -> str:
    """Three figures are all that a shared machine gives."""
    if value >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


# -- rounds ------------------------------------------------------------------------------------------------------------


def alternate(
    contenders: Mapping[str, Callable[[], float]], rounds: int, *, settle: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """What each of *contenders* measured in each round, in turns; *settle* is called before each, untimed."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for number_ in range(1, rounds + 1):
        for name, contender in contenders.items():
            say(f"round {number_} of {rounds}: {name}")
            settle()
            measured[name].append(contender())
    say("")
    return measured


def settle_disk() -> None:
    """Write back what the one before left in the page cache, so that the next does not pay for it."""
    os.sync()


class Ran(NamedTuple):
    """A command that has ended with 0: *cpu_s* is its own and that of the children it waited for."""

    wall_s: float
    cpu_s: float
    stderr: str


def run(argv: Sequence[str], env: Mapping[str, str], *, stdout: int = subprocess.DEVNULL) -> Ran:
    """Time *argv*, from before its start to after its end.

    Raises:
        BenchError: it failed.
    """
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        stderr = errors.read().decode(errors="replace")
    if process.returncode:
        raise BenchError(f"{' '.join(argv)} ended with {process.returncode}: {stderr.strip()}")
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, stderr)


def environment(home: Path, **extra: str) -> dict[str, str]:
    """What steno and its peers run with: this checkout, *home*, and none of the caller's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("STENO_", "ASCIINEMA_"))}
    return kept | {"PYTHONPATH": str(ROOT), "STENO_HOME": str(home), "SHELL": "/bin/sh"} | extra


def lines_of(count: int) -> Iterator[list[bytes]]:
    """*count* deterministic lines of LINE_BYTES, numbered, in lists of up to 10,000."""
    rng = random.Random(SEED)
    alphabet = b"abcdefghijklmnopqrstuvwxyz      "
    bodies = [bytes(rng.choices(alphabet, k=LINE_BYTES - 11)) for _ in range(1_000)]
    for start in range(0, count, 10_000):
        yield [b"%09d %b\n" % (n, bodies[n % 1_000]) for n in range(start, min(start + 10_000, count))]


# -- the machine -------------------------------------------------------------------------------------------------------


def machine(scratch: Path) -> dict[str, str | int | float]:
    """What the figures were taken with and on."""
    facts: dict[str, str | int | float] = {
        "cpus": os.cpu_count() or 1,
        "cpu": _cpu(),
        "kernel": platform.release(),
        "file_system": file_system(scratch),
        "load": round(os.getloadavg()[0], 2),
        "seed": SEED,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "script": _first_line(["script", "--version"]),
    }
    for package in ("steno", "lmdb", "msgspec", "trio", "xxhash", "asciinema", "eventsourcing"):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package != "steno":  # a checkout need not be installed
                facts[package] = "missing"
    return facts


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(argv: Sequence[str]) -> str:
    if shutil.which(argv[0]) is None:
        return "missing"
    return subprocess.run(argv, capture_output=True, text=True).stdout.partition("\n")[0]


def file_system(path: Path) -> str:
    """The type of the file system that holds *path*."""
    device = path.stat().st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == f"{os.major(device)}:{os.minor(device)}":
            return fields[fields.index("-") + 1]
    return "unknown"


# -- running and printing ----------------------------------------------------------------------------------------------


class Options(NamedTuple):
    """*size*: what the bench counts, events or lines; None: its own choice. *scratch*: an empty directory."""

    full: bool
    scratch: Path
    size: int | None = None


Bench = Callable[[Options], Iterator[Result]]

HEADER = ("measure", "steno", "peer", "ratio", "limit", "met")
WIDTHS = (44, 15, 42, 20, 15, 3)


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--full", action="store_true", help="larger sizes and more rounds")
    made.add_argument("--json", action="store_true", help="JSON lines")
    made.add_argument("--dir", type=Path, help="where to write; its file system is measured too (default: $TMPDIR)")
    return made


def main(name: str, question: str | None, bench: Bench, counted: str = "") -> int:
    """The command line of one bench alone; *counted*: what ``--<counted> N`` sets the number of."""
    made = parser(question)
    if counted:
        made.add_argument(f"--{counted}", dest="size", metavar="N", type=int, help=f"so many {counted}")
    args = made.parse_args()
    return exit_status(lambda: run_benches({name: bench}, args, getattr(args, "size", None)))


def exit_status(body: Callable[[], object]) -> int:
    """0, also where a limit was missed; 1 where *body* says that something was done wrong."""
    try:
        body()
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run_benches(benches: Mapping[str, Bench], args: argparse.Namespace, size: int | None = None) -> list[Result]:
    """Run *benches* in their order, printing each result as it comes."""
    found: list[Result] = []
    with scratch_directory(args.dir) as scratch:
        facts = machine(scratch)
        if args.json:
            _print_json({"machine": facts})
        else:
            print(", ".join(f"{key} {value}" for key, value in facts.items()), end="\n\n")
            print(_cells(HEADER))
        if facts["file_system"] in ("tmpfs", "ramfs"):
            warn(f"{scratch} is in memory: nothing here is durable, so nothing pays for it. Use --dir")
        for name, bench in benches.items():
            directory = scratch / name
            directory.mkdir()
            for result in bench(Options(args.full, directory, size)):
                say("")
                found.append(result)
                if args.json:
                    _print_json(result)
                else:
                    print(_cells(cells(result)), flush=True)
                    if result.note:
                        print(f"    {result.note}", flush=True)
            shutil.rmtree(directory)
    return found


def cells(result: Result) -> tuple[str, ...]:
    """A result's columns, as HEADER names them."""
    peer = f"{number(result.theirs)} {result.unit} {result.peer}" if result.theirs is not None else result.peer
    ratio = ""
    if result.ratio is not None:
        ratio = f"{result.ratio:.2f} ×"
        if result.low is not None and result.high is not None:
            ratio += f" ({result.low:.2f}–{result.high:.2f})"
    met = {True: "yes", False: "NO", None: ""}[result.met]
    return (
        f"{result.bench}: {result.measure}",
        f"{number(result.ours)} {result.unit}",
        peer,
        ratio,
        result.limit,
        met,
    )


def _cells(row: Sequence[str]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, WIDTHS, strict=True)).rstrip()


def _print_json(what: object) -> None:
    print(msgspec.json.encode(what).decode(), flush=True)


def say(text: str) -> None:
    """Progress, where someone looks; the next one takes its place."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    print(f"\n*** {text} ***\n", file=sys.stderr, flush=True)


@contextmanager
def scratch_directory(parent: Path | None) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="steno-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
