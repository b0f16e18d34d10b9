"""``steno import``: asciinema's recordings become sessions, each whole in one transaction or not at all.

A file is read to its end before anything of it is written, so one bad event refuses it and leaves no trace. Of several
files the good ones are imported, the bad ones are named as ``error: FILE:LINE: reason``, and the exit status is 1.

One recording is one LMDB transaction, and that must fit one segment's map: 4 GiB by default, four times the setting
``segment_bytes``. A larger recording is refused before anything is written, with the setting that would take it: cut
into several transactions, a crash could leave half a session. While it is imported it is in memory, four times its
size: 170 MB with 1 M events took 0.7 GB and 6 s, of which the transaction, which other writers wait for, took 1.1 s.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence

import lmdb

from eventlog.codec import Record
from eventlog.events import SessionStarted
from eventlog.segment import MAP_FACTOR, MIN_MAP_BYTES, WriteTransaction
from eventlog.sessions import AGENT_NAME, session_id
from eventlog.store import Store, Stored
from processors.asciicast import CastError, Imported, read_cast, to_records
from tools.cli.home import open_store
from tools.cli.output import CommandError, UsageError, print_error, visible
from tools.cli.progress import progress_bar

EXAMPLES = """\
examples:
  steno import demo.cast                   becomes a session of the agent 'demo', and its id is printed
  steno import *.cast --agent codex        all of one agent, each at the time it was recorded
  steno import demo.cast && steno replay demo --speed 4
"""

SHOWN_BYTES = 1 << 18  # between two looks at the progress bar
PAGE_BYTES = 4096
OVERFLOW_BYTES = 2000  # a value above about this has pages of its own
RECORD_BYTES = 64  # a leaf's share of key, header and index
FILLED = 0.9  # of a map, at the most: branch pages, the session table, the block index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE.cast", nargs="+", help="asciicast version 1, 2 or 3")
    parser.add_argument("--agent", metavar="A", help="the agent's name (default: the file's name)")


def run(args: argparse.Namespace) -> int:
    if args.agent is not None and not AGENT_NAME.fullmatch(args.agent):
        raise UsageError(
            f"'{args.agent}' cannot name an agent", "--agent with letters, digits, '.', '_', '-', 64 at the most"
        )
    refused = 0
    # While a bar is drawn, rich sends what is printed to the bar's terminal: right on a terminal, wrong into a pipe.
    ids = None if sys.stdout.isatty() else sys.stdout
    with open_store(args) as (_, store), progress_bar("importing") as show:
        progress = _Progress(args.files, show)
        for file in args.files:
            try:
                imported = _read(file, args.agent or agent_name(file), progress)
                session = _append(store, file, imported.records)
            except (CastError, UnreadableError, TooBigError) as error:
                print_error(str(error), error.hint)
                refused += 1
                continue
            for warning in imported.warnings:
                print(f"warning: {visible(file)}: {visible(warning)}", file=sys.stderr)
            print(session, file=ids, flush=True)
    return 1 if refused else 0


class UnreadableError(CommandError):
    """A file that cannot be opened or read."""


class TooBigError(CommandError):
    """A recording that no transaction of this log can hold."""

    def __init__(self, file: str, needed_bytes: int, map_bytes: int) -> None:
        setting = -(-needed_bytes * 2 // MAP_FACTOR >> 20) << 20
        super().__init__(
            f"{file}: takes {needed_bytes / 1e6:,.0f} MB in one transaction, a segment of this log has room for "
            f"{map_bytes / 1e6:,.0f} MB",
            f"STENO_SEGMENT_BYTES={setting} steno import {file}",
        )


def agent_name(file: str) -> str:
    """The file's name without its ending, made valid."""
    stem = re.sub(r"\.(cast|json)$", "", os.path.basename(file))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:64] or "cast"


class _Progress:
    """Bytes read of all files, for the bar."""

    def __init__(self, files: Sequence[str], show: Callable[[int, int], None]) -> None:
        self._of = sum(os.path.getsize(file) for file in files if os.path.isfile(file))
        self._show = show
        self._done = 0
        self._shown = 0

    def lines(self, lines: Iterator[bytes]) -> Iterator[bytes]:
        for line in lines:
            self._done += len(line)
            if self._done - self._shown >= SHOWN_BYTES:
                self._shown = self._done
                self._show(self._done, self._of)
            yield line


def _read(file: str, agent: str, progress: _Progress) -> Imported:
    try:
        with open(file, "rb") as opened:
            header, events = read_cast(progress.lines(opened), file)
            began_ns = header.timestamp_ns
            if began_ns is None:
                began_ns = max(0, os.fstat(opened.fileno()).st_mtime_ns)
            return to_records(header, events, agent=agent, began_ns=began_ns)
    except OSError as error:
        raise UnreadableError(f"{file}: {error.strerror}") from error


def _append(store: Store, file: str, records: list[Record]) -> str:
    """Commit the session that *records* are; its id."""
    # Encoded before the transaction, which every other writer of this home waits for.
    session = _free_id(records, store.session)
    stored = _stored(records, session)
    needed = sum(_needed_bytes(one.value) for one in stored)
    room = max(store.cap_bytes * MAP_FACTOR, MIN_MAP_BYTES)

    def build(txn: WriteTransaction) -> list[Stored]:
        nonlocal session, stored
        if txn.session_raw(session) is not None:  # somebody was faster
            session = _free_id(records, txn.session_raw)
            stored = _stored(records, session)
        return stored

    if needed > room * FILLED:
        raise TooBigError(file, needed, room)
    try:
        store.append([build])
    except lmdb.MapFullError as error:
        raise TooBigError(file, needed, room) from error
    return session


def _free_id(records: list[Record], taken: Callable[[str], object]) -> str:
    started = records[0].event
    assert isinstance(started, SessionStarted)
    number = 1
    while taken(session := session_id(started.agent, records[0].at_ns, number)) is not None:
        number += 1
    return session


def _stored(records: list[Record], session: str) -> list[Stored]:
    for record in records:
        record.session = session
    return [Stored(record) for record in records]


def _needed_bytes(value: bytes) -> int:
    """What a value takes on disk."""
    size = len(value) + RECORD_BYTES
    return size if size <= OVERFLOW_BYTES else -(-size // PAGE_BYTES) * PAGE_BYTES
