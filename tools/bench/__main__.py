"""Run every bench, or ``--only`` one of them; see ``tools/bench/__init__.py``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tools import bench
from tools.bench import append, harness, record, replay, start
from tools.bench.harness import Bench, Result

BENCHES: dict[str, Bench] = {
    "start": start.results,
    "append": append.results,
    "record": record.results,
    "replay": replay.results,
}
README = harness.ROOT / "README.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def main() -> int:
    parser = harness.parser(bench.__doc__)
    parser.add_argument("--only", metavar="NAME", choices=BENCHES, help=", ".join(BENCHES))
    parser.add_argument(
        "--write-readme", action="store_true", help=f"put the table between {BEGIN} and {END} of README.md"
    )
    args = parser.parse_args()
    return harness.exit_status(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    results = harness.run_benches({k: v for k, v in BENCHES.items() if args.only in (None, k)}, args)
    missed = [result for result in results if result.met is False]
    if not args.json:
        judged = sum(result.met is not None for result in results)
        print(f"\n{judged - len(missed)} of {judged} limits met")
    if args.write_readme and args.only is None:
        _write_readme(README, results, harness.machine(args.dir or Path(tempfile.gettempdir())))
    elif args.write_readme:
        harness.warn("README.md is left as it is: its table holds every bench")


def _write_readme(path: Path, results: Sequence[Result], facts: dict[str, str | int | float]) -> None:
    text = path.read_text("utf-8") if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        harness.warn(f"README.md is left as it is: it has no {BEGIN} … {END}")
        return
    path.write_text(f"{before}{BEGIN}\n{table(results, facts)}{END}{after}", "utf-8")


def table(results: Sequence[Result], facts: dict[str, str | int | float]) -> str:
    """The figures as a Markdown table, with what they were taken on."""
    rows = ["| measure | steno | peer | ratio | limit | met |", "|---|---|---|---|---|---|"]
    rows += [f"| {' | '.join(harness.cells(result))} |" for result in results]
    taken = (
        f"Medians of rounds in turn with the peer, the rounds' range in brackets; {datetime.now(UTC):%Y-%m-%d}, "
        f"{facts['cpus']} CPUs ({facts['cpu']}), load {facts['load']} at the end, {facts['file_system']}, "
        f"Linux {facts['kernel']}, Python {facts['python']}, lmdb {facts['lmdb']}. `make bench` writes this table."
    )
    return "\n".join([*rows, "", taken, ""])


if __name__ == "__main__":
    sys.exit(main())
