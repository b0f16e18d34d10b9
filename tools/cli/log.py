"""``steno log``: the events themselves, of all sessions or one, what is there and what comes."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import deque
from collections.abc import Iterator

from eventlog.codec import OutputRun
from eventlog.events import NAMES, Output, Recorded, Unknown
from eventlog.jsonform import event_object
from eventlog.sessions import Session
from eventlog.store import Store
from tools.cli.home import find_session, open_home, open_store
from tools.cli.output import Row, UsageError, add_format, colours, count, one_line, print_json, print_rows

EXAMPLES = """\
examples:
  steno log --follow --json                every event of every agent as it happens
  steno log claude --limit 20              the last twenty of its latest session
  steno log --kind state_changed --kind session_exited --after 1000
"""

KINDS = {name: OutputRun if kind is Output else kind for kind, name in NAMES.items() if kind is not Unknown}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", nargs="?", help="only this session's")
    parser.add_argument("--after", metavar="P", type=count, help="begin after this position")
    parser.add_argument("--limit", metavar="N", type=count, help="N events; alone: the last N")
    parser.add_argument(
        "--kind", metavar="K", action="append", choices=sorted(KINDS), help="only these: " + ", ".join(KINDS)
    )
    parser.add_argument("--follow", "-f", action="store_true", help="go on with what comes")
    add_format(parser)


def run(args: argparse.Namespace) -> int:
    if args.follow and args.csv:
        raise UsageError("--csv has an end, --follow has none", "--json --follow")
    with open_store(args) as (_, store):
        row = find_session(store, args.session) if args.session is not None else None
        first_wanted = args.after is not None
        head = store.head()
        events = _stored(store, row, args, head)
        if args.limit is not None:
            # "the last N" of a filtered view: where they begin is not known before all of it has been read
            events = itertools.islice(events, args.limit) if first_wanted else iter(deque(events, args.limit))
        rows = _counted(_objects(events, store))
        if args.csv:
            print_rows(rows, args, COLUMNS, FIELDS)
        else:
            _print(rows, args)
        if not args.follow:
            return 0 if store.damage is None else 1
    left = args.limit - rows.count if args.limit is not None and first_wanted else None
    return _follow(args, row, head, left)


def _stored(store: Store, row: Session | None, args: argparse.Namespace, head: int) -> Iterator[Recorded]:
    after = args.after or 0
    if row is not None:
        after = max(after, store.session_start(row.session))
    elif args.limit is not None and args.after is None and not args.kind:
        after = head - max(0, args.limit)
    session = row.session if row else None
    for record in store.records(max(0, after), head, session, kinds=_kinds(args)):
        yield from record.events()


def _kinds(args: argparse.Namespace) -> frozenset[type] | None:
    return frozenset(KINDS[name] for name in args.kind) if args.kind else None


class _counted(Iterator[Row]):
    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self.count = 0

    def __next__(self) -> Row:
        row = next(self._rows)
        self.count += 1
        return row


def _objects(events: Iterator[Recorded], store: Store) -> Iterator[Row]:
    agents: dict[str | None, str | None] = {None: None}
    for recorded in events:
        session = recorded.session
        if session not in agents:
            row = store.session(session) if session else None
            agents[session] = row.agent if row else None
        yield event_object(recorded, agents[session])


def _follow(args: argparse.Namespace, row: Session | None, head: int, left: int | None) -> int:
    import trio

    from server.recorder.lock import settle_lost

    home, config = open_home(args)

    async def watch_locks(store: Store) -> None:
        while True:
            await trio.sleep(1.0)
            settle_lost(store, home.run)

    async def follow() -> None:
        from eventlog.log import open_log

        async with open_log(home.log, cap_bytes=config.segment_bytes) as log, trio.open_nursery() as nursery:
            nursery.start_soon(watch_locks, log.store)
            kinds = _kinds(args)
            remaining = left
            subscription = log.subscribe(after=max(head, args.after or 0), session=row.session if row else None)
            while remaining is None or remaining > 0:
                records = [r for r in await subscription.batch() if kinds is None or type(r.event) in kinds]
                events = itertools.chain.from_iterable(record.events() for record in records)
                rows = _counted(_objects(itertools.islice(events, remaining), log.store))
                _print(rows, args)
                remaining = None if remaining is None else remaining - rows.count
            nursery.cancel_scope.cancel()

    trio.run(follow)
    return 0


def _print(rows: Iterator[Row], args: argparse.Namespace) -> None:
    if args.json:
        print_json(rows)
        return
    dim, plain = ("\033[2m", "\033[0m") if colours(sys.stdout) else ("", "")
    for row in rows:
        cells = [column(row) for column in COLUMNS.values()]
        sys.stdout.write(f"{dim}{cells[0]:>8}  {cells[1]}{plain}  {cells[2]}  {cells[3]}  {one_line(cells[4])}\n")
    sys.stdout.flush()


def _summary(row: Row) -> str:
    if row.get("text") is not None:
        return repr(row["text"])[1:-1]
    common = {"position", "session", "agent", "at", "elapsed_s", "type", "text"}
    return " ".join(f"{key}={value}" for key, value in row.items() if key not in common and value is not None)


COLUMNS = {
    "POSITION": lambda row: str(row["position"]),
    "AT": lambda row: row["at"][11:23],
    "SESSION": lambda row: row["session"] or "-",
    "KIND": lambda row: row["type"],
    "WHAT": _summary,
}
FIELDS = (
    "position",
    "session",
    "agent",
    "at",
    "elapsed_s",
    "type",
    "stream",
    "text",
    "data_b64",
    "from",
    "to",
    "reason",
)
