"""``steno show``: one session in detail, with every state it was in and every command given to it."""

from __future__ import annotations

import argparse

from eventlog.events import Command, CommandOutcome, StateChanged
from eventlog.jsonform import rfc3339
from eventlog.sessions import Session
from eventlog.store import Store
from tools.cli.home import find_session, open_store, session_row
from tools.cli.output import Row, one_line, print_json
from tools.cli.times import span

EXAMPLES = """\
examples:
  steno show claude                        the latest session of that agent
  steno show claude-20261122-101500 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", help="a session id, an agent's name, or a unique prefix of an id")
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    with open_store(args) as (home, store):
        row = find_session(store, args.session)
        detail = session_row(home, store, row) | _history(store, row)
    if args.json:
        print_json([detail])
    else:
        _print(detail)
    return 0


def _history(store: Store, row: Session) -> Row:
    states: list[Row] = []
    commands: dict[str, Row] = {}
    for record in store.records(store.session_start(row.session), session=row.session, kinds=HISTORY):
        event = record.event
        place = {"position": record.last, "at": rfc3339(record.at_ns)}
        if isinstance(event, StateChanged):
            states.append(place | {"from": event.from_, "to": event.to, "reason": event.reason})
        elif isinstance(event, Command):
            asked = {"verb": event.verb, "arguments": event.arguments, "requested_by": event.requested_by}
            commands[event.id] = place | {"id": event.id} | asked | {"outcome": None, "error": None}
        elif isinstance(event, CommandOutcome) and event.id in commands:
            commands[event.id].update(outcome=event.outcome, error=event.error)
    return {"states": states, "commands": list(commands.values())}


HISTORY = frozenset({StateChanged, Command, CommandOutcome})


def _print(detail: Row) -> None:
    for key, value in detail.items():
        if value is None or key in ("states", "commands"):
            continue
        shown = " ".join(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            shown = " ".join(f"{k}={v}" for k, v in value.items())
        elif key.endswith("_s"):
            shown = span(float(value))
        print(f"{key:16}{one_line(str(shown))}")
    print("\nstates")
    for state in detail["states"]:
        print(f"  {state['position']:>10}  {state['at']}  {state['from']} → {state['to']}  {one_line(state['reason'])}")
    if detail["commands"]:
        print("\ncommands")
    for command in detail["commands"]:
        outcome = (command["outcome"] or "pending") + (f": {command['error']}" if command["error"] else "")
        what = f"{command['verb']}  by {command['requested_by']}  {outcome}"
        print(f"  {command['position']:>10}  {command['at']}  {one_line(what)}")
