"""``steno sessions``: what has been recorded, newest first."""

from __future__ import annotations

import argparse

from tools.cli.home import agent_matches, open_store, session_row
from tools.cli.output import Row, add_format, count, print_rows
from tools.cli.times import ago, span, wall_ns

EXAMPLES = """\
examples:
  steno sessions --state running           what runs now
  steno sessions --agent 'claude*' --since 2d
  steno sessions --json | jq -r .session
"""

STATES = ("starting", "running", "paused", "exited", "failed", "killed", "lost")
FIELDS = [
    "session",
    "agent",
    "state",
    "mode",
    "argv",
    "cwd",
    "tags",
    "started_at",
    "ended_at",
    "duration_s",
    "exit_code",
    "signal",
    "lines",
    "bytes",
    "cols",
    "rows",
    "pid",
    "host",
    "recorder",
    "last_output_at",
    "idle_s",
    "first_position",
    "last_position",
    "truncated",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", metavar="A", help="only this agent's; * and ? match")
    parser.add_argument("--state", metavar="S", choices=STATES, help="one of: " + " ".join(STATES))
    parser.add_argument("--since", metavar="T", help="started at or after T: a time, or a duration ago (2h)")
    parser.add_argument("--limit", metavar="N", type=count, help="the newest N")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    since_ns = wall_ns(args.since) if args.since else 0
    with open_store(args) as (home, store):
        rows = [
            session_row(home, store, row)
            for row in reversed(store.sessions())
            if agent_matches(args.agent, row.agent) and row.started_at_ns >= since_ns
        ]
    rows = [row for row in rows if args.state in (None, row["state"])]
    if args.limit is not None:
        rows = rows[: args.limit]
    print_rows(rows, args, COLUMNS, FIELDS)
    return 0


def _how(row: Row) -> str:
    return row["signal"] or ("" if row["exit_code"] is None else str(row["exit_code"]))


COLUMNS = {
    "SESSION": lambda row: row["session"],
    "STATE": lambda row: row["state"],
    "EXIT": _how,
    "STARTED": lambda row: ago(row["started_at"]),
    "TOOK": lambda row: span(row["duration_s"]),
    "LINES": lambda row: f"{row['lines']:,}",
    "COMMAND": lambda row: " ".join(row["argv"]),
}
