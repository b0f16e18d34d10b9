"""``steno verify``: every stored record, and what each session promises. Reads in a child process, changes nothing."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tools.cli.output import Row, add_format, print_rows
from tools.cli.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLES = """\
examples:
  steno verify                             exit status 1 lists what is broken
  steno --home /backups/steno verify --json
"""

FIELDS = ["position", "promise", "detail"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    from eventlog.errors import EventLogError
    from eventlog.verify import Progress, verify
    from tools.cli.home import open_home

    home, _ = open_home(args)
    seen: Progress | None = None
    with progress_bar("verifying") as show:

        def on_progress(progress: Progress) -> None:
            nonlocal seen
            seen = progress
            show(progress.position - progress.first + 1, progress.head - progress.first + 1)

        try:
            findings = verify(home.log, on_progress)
        except EventLogError as error:
            error.hint = "steno run -- CMD records something"
            raise
    rows: list[Row] = [{field: getattr(finding, field) for field in FIELDS} for finding in findings]
    if rows or args.json or args.csv:
        print_rows(rows, args, COLUMNS, FIELDS)
    if not rows:
        events = (
            f"{seen.head - seen.first + 1:,} events, positions {seen.first} to {seen.head}" if seen else "nothing yet"
        )
        print(f"ok: {events}", file=sys.stderr)
    return 1 if rows else 0


COLUMNS: dict[str, Callable[[Row], str]] = {
    "POSITION": lambda row: str(row["position"]),
    "PROMISE": lambda row: row["promise"],
    "DETAIL": lambda row: row["detail"],
}
