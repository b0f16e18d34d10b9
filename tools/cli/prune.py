"""``steno prune``: explicit retention. Says what it deletes, then deletes it, whole segments at a time."""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING

from tools.cli.output import UsageError, print_json
from tools.cli.times import ago, duration_s

if TYPE_CHECKING:
    from eventlog.prune import Plan

EXAMPLES = """\
examples:
  steno prune --older-than 30d --dry-run   what would go
  steno prune --keep-bytes 20G             the newest 20 GB stay
"""

UNITS = {
    "": 1,
    "K": 1000,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--older-than", metavar="D", help="segments whose newest event is older than D (30d, 12h)")
    which.add_argument("--keep-bytes", metavar="N", help="the oldest, until N bytes are left (20G, 500M)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    from eventlog.prune import plan, prune
    from tools.cli.home import open_store

    older_than_ns = None if args.older_than is None else round(duration_s(args.older_than) * 1e9)
    keep_bytes = None if args.keep_bytes is None else size_bytes(args.keep_bytes)
    with open_store(args) as (_, store):
        doomed = plan(store, now_ns=time.time_ns(), older_than_ns=older_than_ns, keep_bytes=keep_bytes)
        if not args.json:
            _announce(doomed, dry_run=args.dry_run)
        freed = 0 if args.dry_run else prune(store, doomed)
    if args.json:
        print_json([_object(doomed) | {"dry_run": args.dry_run, "freed_bytes": freed}])
    return 0


def _object(doomed: Plan) -> dict[str, object]:
    segments = [{"first": s.first, "last": s.last, "bytes": s.bytes} for s in doomed.segments]
    return {
        "segments": segments,
        "bytes": doomed.bytes,
        "gone": doomed.gone,
        "truncated": doomed.truncated,
        "first": doomed.first,
        "stopped": doomed.stopped,
    }


def _announce(doomed: Plan, *, dry_run: bool) -> None:
    from eventlog.jsonform import rfc3339

    for segment in doomed.segments:
        newest = ago(rfc3339(segment.newest_at_ns))
        print(f"positions {segment.first} to {segment.last}, {segment.bytes / 1e6:,.1f} MB, newest event {newest}")
    verb = "would delete" if dry_run else "deleting"
    print(
        f"{verb} {len(doomed.segments)} segments, {doomed.bytes / 1e6:,.1f} MB: {len(doomed.gone)} sessions wholly, "
        f"{len(doomed.truncated)} in part; the log then begins at position {doomed.first} ({doomed.stopped})",
        flush=True,
    )


def size_bytes(text: str) -> int:
    """``20G``, ``500M``, ``1.5Gi``.

    Raises:
        UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]i?|)B?", text)
    if match is None:
        raise UsageError(f"'{text}' is not a size", "a number of bytes, or with a unit: 500M, 20G, 1.5Gi")
    return round(float(match[1]) * UNITS[match[2]])
