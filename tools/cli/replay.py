"""``steno replay``: a session's bytes with their recorded timing; at ``--speed max`` exactly what the child wrote."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext

from eventlog.codec import OutputRun
from eventlog.events import Stream
from eventlog.sessions import Session
from eventlog.store import Store
from server.config import Config, Home
from tools.cli.home import find_session, open_home, open_store
from tools.cli.output import print_error
from tools.cli.terminal import write_all
from tools.cli.times import session_ns

EXAMPLES = """\
examples:
  steno replay claude --speed 8            watch its latest session at eight times the speed
  steno replay claude --idle-limit 1       no silence longer than a second
  steno replay claude --speed max | less -R
  steno replay claude --from 90 --to 120   half a minute of it
  steno replay claude --follow             from the beginning, on into live

keys on a terminal: space pauses, . steps, left and right seek 5 s, + and - change the speed, q quits
"""

DESCRIPTORS: dict[Stream, int] = {"pty": 1, "stdout": 1, "stderr": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", help="a session id, an agent's name, or a unique prefix of an id")
    parser.add_argument(
        "--speed", metavar="X", type=speed, default=1.0, help="0.1 to 1000, or max: no waiting (default 1)"
    )
    parser.add_argument("--from", dest="from_", metavar="T", help="begin there: seconds into the session, or a time")
    parser.add_argument("--to", metavar="T", help="end there")
    parser.add_argument("--idle-limit", metavar="S", type=seconds, help="cut silences to S seconds")
    parser.add_argument("--follow", action="store_true", help="slide into live at the end of a running session")


def speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"'{text}' is no speed: 0.1 to 1000, or max")
    return value


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:  # nan and inf are neither
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds, 0 or more")
    return value


def run(args: argparse.Namespace) -> int:
    with open_store(args) as (home, store):
        row = find_session(store, args.session)
        from_ns, to_ns = _place(args.from_, row), _place(args.to, row)
        if row.first_position < store.first:
            print_error(f"positions {row.first_position} to {store.first - 1} were pruned: what is left of it follows")
        if args.speed is None and not args.follow:
            return _dump(store, row, from_ns or 0, to_ns)
    import trio

    _, config = open_home(args)
    return trio.run(_play, args, home, config, row, from_ns or 0, to_ns)


def _place(text: str | None, row: Session) -> int | None:
    if text is None:
        return None
    return session_ns(text, started_at_ns=row.started_at_ns, now_elapsed_ns=row.last_elapsed_ns)


def _dump(store: Store, row: Session, from_ns: int, to_ns: int | None) -> int:
    """The bytes of the window as fast as they can be written, in large pieces."""
    start = store.session_start(row.session, from_ns)
    for record in store.records(start, session=row.session, kinds=(OutputRun,)):
        event = record.event
        assert isinstance(event, OutputRun)
        reads = [
            b"".join(lines)
            for elapsed_ns, lines in event.reads
            if from_ns <= elapsed_ns and (to_ns is None or elapsed_ns <= to_ns)
        ]
        write_all(DESCRIPTORS[event.stream], b"".join(reads))
    return 0 if store.damage is None and row.first_position >= store.first else 1  # this was not all of it


async def _play(
    args: argparse.Namespace, home: Home, config: Config, row: Session, from_ns: int, to_ns: int | None
) -> int:
    import trio

    from eventlog.log import open_log
    from eventlog.replay import Replay
    from server.recorder.lock import settle_lost
    from tools.cli import terminal

    on_screen = os.isatty(1)
    with_keys = on_screen and os.isatty(0) and terminal.in_foreground(0)

    async def watch_locks(store: Store) -> None:
        while True:
            await trio.sleep(1.0)
            settle_lost(store, home.run)

    async with open_log(home.log, cap_bytes=config.segment_bytes) as log:
        start = log.store.session_start(row.session, 0 if on_screen else from_ns)
        replay = Replay(
            log.subscribe(after=start, session=row.session),
            speed=args.speed,
            from_ns=from_ns,
            to_ns=to_ns,
            idle_limit_ns=None if args.idle_limit is None else round(args.idle_limit * 1e9),
            show_before=on_screen,
            follow=args.follow,
        )
        told = 0
        with terminal.keys(0) if with_keys else nullcontext() as mode:
            async with trio.open_nursery() as nursery:
                if mode is not None:
                    from tools.cli.keys import control, obey

                    def stop(number: int) -> None:
                        nonlocal told
                        told = 128 + number
                        replay.stop()

                    nursery.start_soon(control, replay)
                    await nursery.start(obey, mode, stop)
                if args.follow:
                    nursery.start_soon(watch_locks, log.store)
                try:
                    await _show(replay)
                finally:
                    nursery.cancel_scope.cancel()
                    if on_screen:
                        write_all(1, terminal.RESET)
    return told


async def _show(replay: object) -> None:
    from eventlog.replay import Replay
    from tools.cli.terminal import CLEAR

    assert isinstance(replay, Replay)
    while (due := await replay.next()) is not None:
        if replay.reset:
            replay.reset = False
            write_all(1, CLEAR)
        pieces: list[tuple[int, list[bytes]]] = []
        for moment in due:
            if moment.stream is None:
                continue
            fd = DESCRIPTORS[moment.stream]
            if not pieces or pieces[-1][0] != fd:
                pieces.append((fd, []))
            pieces[-1][1].append(moment.data)
        for fd, data in pieces:
            write_all(fd, b"".join(data))
    sys.stdout.flush()
