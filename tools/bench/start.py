"""How long does steno take to start?

`steno --version`, which loads neither trio nor lmdb, and `steno run -- true`: open the log, start a child, record its
five events durably, print the id. Both beside `python -c pass`, which no Python program can beat.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

from tools.bench import harness
from tools.bench.harness import STENO, BenchError, Limit, Options, Result

ROUNDS = 20
FULL_ROUNDS = 100


def results(options: Options) -> Iterator[Result]:
    home = options.scratch / "home"
    env = harness.environment(home)
    version = [*STENO, "--version"]
    run_true = [*STENO, "run", "--", "true"]
    fresh = 0

    def first_run() -> float:
        nonlocal fresh
        fresh += 1
        return 1e3 * harness.run(run_true, harness.environment(options.scratch / f"home-{fresh}")).wall_s

    def timed(argv: list[str]) -> Callable[[], float]:
        return lambda: 1e3 * harness.run(argv, env).wall_s

    contenders: dict[str, Callable[[], float]] = {
        "steno --version": timed(version),
        "python -c pass": timed([sys.executable, "-c", "pass"]),
        "steno run -- true": timed(run_true),
        "in a new home": first_run,
    }
    for contender in contenders.values():
        contender()
        contender()
    measured = harness.alternate(contenders, FULL_ROUNDS if options.full else ROUNDS)
    shown = subprocess.run([*STENO, "sessions", "--json"], env=env, stdout=subprocess.PIPE, check=True).stdout
    states = [json.loads(line)["state"] for line in shown.splitlines()]
    if states != ["exited"] * (len(measured["steno run -- true"]) + 2):
        raise BenchError(f"steno run -- true left {states}")

    for name, limit in (
        ("steno --version", Limit("≤", 80, "excess", "ms")),
        ("steno run -- true", Limit("≤", 400, "value", "ms")),
        ("in a new home", None),
    ):
        ours, bare = measured[name], measured["python -c pass"]
        result = harness.compare(ours, bare, limit=limit, bench="start", measure=name, unit="ms", peer="python -c pass")
        over = result.ours - (result.theirs or 0.0)
        result.note = f"{over:.0f} ms over the peer; p99 {harness.quantile(ours, 0.99):.0f} ms"
        yield result


if __name__ == "__main__":
    sys.exit(harness.main("start", __doc__, results))
