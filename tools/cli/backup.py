"""``steno backup``: a consistent copy of the log, itself a home, while everything goes on being recorded."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tools.cli.output import CommandError, print_json
from tools.cli.progress import progress_bar

EXAMPLES = """\
examples:
  steno backup /backups/steno-monday       then: steno --home /backups/steno-monday sessions
"""

CARRIED = ("rules.toml", "config.toml")  # what a user wrote; never the token


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("destination", metavar="DEST", type=Path, help="a new or empty directory")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from eventlog.backup import backup
    from tools.cli.home import open_store

    with open_store(args) as (home, store), progress_bar("copying") as show:
        try:
            done = backup(store, args.destination, show)
        except FileExistsError as error:
            raise CommandError(f"{args.destination}: {error.strerror}", "a directory that is new or empty") from error
    for name in CARRIED:
        if (home.path / name).is_file():
            shutil.copy2(home.path / name, args.destination / name)
    if args.json:
        print_json([{"segments": done.segments, "bytes": done.bytes, "head": done.head}])
    else:
        size = f"{done.bytes / 1e6:,.1f} MB in {done.segments} segment{'s' if done.segments != 1 else ''}"
        print(f"{args.destination}: {size}, up to position {done.head}", file=sys.stderr)
    return 0
