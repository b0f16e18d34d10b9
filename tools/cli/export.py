"""``steno export``: a session as an asciicast, as text, or as the bytes it was; what a format cannot say is told."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from eventlog.codec import OutputRun, Record
from eventlog.events import Gap, Stream
from eventlog.sessions import Session
from eventlog.store import Store
from tools.cli.home import find_session, open_store
from tools.cli.output import UsageError, visible

EXAMPLES = """\
examples:
  steno export claude --format asciicast -o claude.cast      then: asciinema play claude.cast
  steno export claude --format asciicast --cast-version 2    for players from before 2025
  steno export claude --format text | grep -n error          the rows a terminal showed, one a line
  steno export claude --format raw > claude.bytes            every byte, stdout and stderr in one
"""

Write = Callable[[bytes], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", help="a session id, an agent's name, or a unique prefix of an id")
    parser.add_argument("--format", choices=("asciicast", "text", "raw"), required=True)
    parser.add_argument("--cast-version", type=int, choices=(2, 3), help="of asciicast (default 3)")
    parser.add_argument("-o", "--output", metavar="FILE", help="there, whole or not at all (default: standard output)")


def run(args: argparse.Namespace) -> int:
    if args.cast_version and args.format != "asciicast":
        raise UsageError("--cast-version is of --format asciicast")
    with open_store(args) as (_, store):
        row = find_session(store, args.session)
        with _destination(args.output) as write:
            if args.format == "asciicast":
                warnings = _cast(store, row, args.cast_version or 3, write)
            elif args.format == "text":
                warnings = _text(store, row, write)
            else:
                warnings = _raw(store, row, write)
        if row.first_position < store.first:
            warnings.insert(0, "its beginning has been pruned")
    for warning in warnings:
        print(f"warning: {row.session}: {visible(warning)}", file=sys.stderr)
    return 0


def _cast(store: Store, row: Session, version: int, write: Write) -> list[str]:
    from processors.asciicast import WRITTEN, write_cast

    cast = write_cast(_records(store, row, WRITTEN), row, 2 if version == 2 else 3)
    for piece in cast:
        write(piece)
    return cast.warnings()


def _text(store: Store, row: Session, write: Write) -> list[str]:
    from processors.rows import Rows

    streams: dict[Stream, Rows] = {}
    lost_bytes = 0
    for record in _records(store, row, (OutputRun, Gap)):
        event = record.event
        if isinstance(event, OutputRun):
            rows = streams.setdefault(event.stream, Rows())
            found = rows.feed(_bytes(event))
            write("".join([f"{one.text}\n" for one in found]).encode())
        elif isinstance(event, Gap):
            lost_bytes += event.lost_bytes
    for rows in streams.values():
        write("".join([f"{one.text}\n" for one in rows.end()]).encode())
    return _lost(lost_bytes)


def _raw(store: Store, row: Session, write: Write) -> list[str]:
    lost_bytes = 0
    for record in _records(store, row, (OutputRun, Gap)):
        if isinstance(record.event, OutputRun):
            write(_bytes(record.event))
        elif isinstance(record.event, Gap):
            lost_bytes += record.event.lost_bytes
    return _lost(lost_bytes)


def _records(store: Store, row: Session, kinds: tuple[type, ...]) -> Iterator[Record]:
    return store.records(store.session_start(row.session), session=row.session, kinds=kinds)


def _bytes(event: OutputRun) -> bytes:
    return b"".join([line for _, lines in event.reads for line in lines])


def _lost(lost_bytes: int) -> list[str]:
    return [f"{lost_bytes:,} bytes of output were never recorded"] if lost_bytes else []


@contextmanager
def _destination(path: str | None) -> Iterator[Write]:
    """Where to write. A file comes into being when all of it has been written, in the place of one of its name."""
    if path is None or path == "-":
        yield sys.stdout.buffer.write
        sys.stdout.flush()
        return
    target = Path(os.path.realpath(path))  # of a link, what it points to is replaced
    if target.exists() and not target.is_file():
        with open(target, "wb") as device:  # or a directory, which is the user's error
            yield device.write
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with _new(temporary, target) as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _new(temporary: Path, target: Path) -> IO[bytes]:
    """The error, where it cannot be made, names what the user named."""
    try:
        return open(temporary, "xb")
    except OSError as error:
        error.filename = str(target)
        raise
