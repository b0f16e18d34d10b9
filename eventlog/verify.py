"""Check every stored record of a log: that the segments chain, positions have no gap, and sessions keep their promises.

``check`` walks the log as it stood when it began: the head and the session table are those of one commit, whatever
writers append meanwhile, and a segment that retention deletes meanwhile is none of its business. One record is held
at a time, and a few words a session.

``verify`` lets a child process walk, for LMDB maps its file: a page cut off while it is read, or a disk's read error,
is SIGBUS, and no exception. The child's death is then one more finding, and a new child checks the rest.

    python -m eventlog.verify DIRECTORY [FIRST …]    JSON lines: findings, and how far it is; FIRST … are passed over
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import msgspec

from eventlog.codec import SESSION_OFFSET, Record, decode
from eventlog.errors import EventDecodeError, EventLogError, LogFormatError, SegmentError
from eventlog.promises import Finding, Promises
from eventlog.salvage import Salvaged
from eventlog.segment import BLOCK_SHIFT, Segment, segment_name, segments_in
from eventlog.sessions import Session

PROGRESS_BYTES = 4 << 20  # what one read transaction of Segment.stored brings


class Progress(msgspec.Struct, frozen=True):
    """All up to *position* was looked at; *segment* is being read; *first* and *head* are the log's."""

    segment: int
    position: int
    first: int
    head: int


class _Line(msgspec.Struct, omit_defaults=True):
    """What the child says."""

    finding: Finding | None = None
    progress: Progress | None = None


def check(directory: Path, skip: Collection[int] = ()) -> Iterator[Finding | Progress]:
    """Every record of the log in *directory*, in this process; the segments that begin at *skip* are passed over.

    No ``Store`` of this process may have the log open: LMDB refuses the same file twice.

    Raises:
        EventLogError: there is no log.
    """
    firsts = segments_in(directory)
    if not firsts:
        raise EventLogError(f"no log in {directory}")
    yield Progress(firsts[-1], firsts[0] - 1, firsts[0], firsts[-1] - 1)
    newest = firsts[-1]
    head, table = newest - 1, None
    unread = set(skip)
    if newest not in unread:
        try:
            head, table = _snapshot(directory / segment_name(newest))
        except (FileNotFoundError, SegmentError, LogFormatError):
            pass  # the walk says so
        except lmdb.Error as error:
            yield Finding(newest, "segments", f"LMDB cannot read it: {error}")
            unread.add(newest)
        else:
            if table is None:
                yield Finding(newest, "table", "the session table cannot be read")
    promises = Promises(firsts[0], table)
    log_id: str | None = None
    for first, following in zip(firsts, [*firsts[1:], None], strict=True):
        last = head if following is None else following - 1
        yield Progress(first, first - 1, firsts[0], head)
        path = directory / segment_name(first)
        if first in unread:
            promises.lost(first, last)
            continue
        try:
            segment = Segment(path)
        except FileNotFoundError:
            promises.lost(first, last)  # retention took it since we looked
            continue
        except LogFormatError as error:
            yield Finding(first, "segments", str(error))
            promises.lost(first, last)
            continue
        except (SegmentError, lmdb.Error) as error:
            yield Finding(first, "segments", _unreadable(path, error))
            promises.lost(first, max(first, last))
            continue
        with closing(segment):
            if segment.log_id != (log_id := log_id or segment.log_id):
                yield Finding(first, "segments", f"it is of another log: {segment.log_id}")
            sealed = segment.sealed()
            if following is not None and sealed is not None:
                last = sealed - 1
            for item in _walk(segment, last, promises):
                yield item if isinstance(item, Finding) else Progress(first, item, firsts[0], head)
            if following is not None:
                yield from _chained(first, sealed, following, promises)
    yield from promises.finish()


def _snapshot(path: Path) -> tuple[int, dict[str, Session] | None]:
    """The head and the session table of one commit; None: the table is damaged."""
    with closing(Segment(path)) as segment:
        try:
            head, items = segment.snapshot()
            return head, {key.decode(): msgspec.msgpack.decode(row, type=Session) for key, row in items}
        except (lmdb.Error, msgspec.DecodeError, UnicodeDecodeError):
            return segment.head(), None


def _unreadable(path: Path, error: Exception) -> str:
    reason = error.reason if isinstance(error, SegmentError) else str(error)
    head = Salvaged(path, SegmentError(path, reason)).head()
    return f"{reason}; readable up to {head}" if head >= int(path.name) else f"{reason}; nothing in it can be read"


def _chained(first: int, sealed: int | None, following: int, promises: Promises) -> Iterator[Finding]:
    """Whether the segment that begins at *first* ends where the next one begins."""
    if sealed is None:
        yield Finding(following, "segments", f"the segment {first} before it was never sealed")
    elif sealed != following:
        yield Finding(min(sealed, following), "segments", f"sealed at {sealed}, but the next begins at {following}")
        promises.lost(min(sealed, following), max(sealed, following) - 1)


def _walk(segment: Segment, last: int, promises: Promises) -> Iterator[Finding | int]:
    """The segment's records up to *last*; an int tells how far it is."""
    expected = segment.first
    size = 0
    blocks: dict[str, int] = {}  # the last one each session was met in
    try:
        for key, value in segment.stored():
            if key > last:
                break
            size += len(value)
            if size >= PROGRESS_BYTES:
                size = 0
                yield expected - 1
            record = _decoded(key, value)
            if isinstance(record, Finding):
                yield record
                promises.lost(expected, key, _session_of(value, promises))
            else:
                yield from _in_order(record, expected, promises)
                yield from promises.record(record)
                session = record.session
                if session is not None and blocks.get(session) != key >> BLOCK_SHIFT and promises.has_row(session):
                    blocks[session] = key >> BLOCK_SHIFT
                    yield from _indexed(session, record, segment)
            expected = key + 1
    except (lmdb.Error, struct.error) as error:
        yield Finding(expected, "segments", f"LMDB cannot read on: {error}")
        promises.lost(expected, max(expected, last))
        return
    if expected <= last:
        yield Finding(expected, "positions", _missing(expected, last))
        promises.lost(expected, last)


def _decoded(key: int, value: bytes) -> Record | Finding:
    try:
        record = decode(key, value)
    except EventDecodeError as error:
        # What msgspec refused is the error's cause; a wrong checksum has none.
        return Finding(key, "checksum" if error.__cause__ is None else "decoding", error.reason)
    return record if record.count else Finding(key, "decoding", "a run of no events")


def _in_order(record: Record, expected: int, promises: Promises) -> Iterator[Finding]:
    if record.first > expected:
        yield Finding(expected, "positions", _missing(expected, record.first - 1))
        promises.lost(expected, record.first - 1)
    elif record.first < expected:
        detail = f"{record.count} events end at {record.last}, but {expected - 1} is another record's"
        yield Finding(record.first, "positions", detail)
        promises.lost(record.first, expected - 1, record.session)


def _indexed(session: str, record: Record, segment: Segment) -> Iterator[Finding]:
    """Whether a reader of *session* comes by here: *record* is the first one of the session in its block."""
    found = segment.block(session, record.last >> BLOCK_SHIFT)
    # A first one that is damaged was passed over, so the index may send a reader to an earlier place, but not later.
    if found is None or found[0] > record.first or found[1] > record.elapsed_ns:
        yield Finding(record.first, "index", f"{session} is not found here: the index says {found}")


def _missing(first: int, last: int) -> str:
    return f"{first} to {last} are missing" if last > first else f"{first} is missing"


def _session_of(value: bytes, promises: Promises) -> str | None:
    """Whose a damaged record was: its session is believed if it is one."""
    length = value[SESSION_OFFSET] if len(value) > SESSION_OFFSET else 0
    if 0xA0 <= length < 0xC0:  # msgpack's fixstr; str 8 has its length in the next byte
        start, length = SESSION_OFFSET + 1, length - 0xA0
    else:
        start, length = SESSION_OFFSET + 2, value[SESSION_OFFSET + 1] if len(value) > SESSION_OFFSET + 1 else 0
    session = value[start : start + length].decode(errors="replace")
    return session if promises.is_known(session) else None


def verify(directory: Path, on_progress: Callable[[Progress], None] = lambda progress: None) -> list[Finding]:
    """As ``check``, in a child process; by position. Writers and readers may go on meanwhile.

    Raises:
        EventLogError: there is no log, or the child failed for a reason that is not the log's.
    """
    deaths: list[Finding] = []
    skip: set[int] = set()
    while True:
        findings, reached, status = _child(directory.absolute(), skip, on_progress)
        if status >= 0:
            return sorted([*deaths, *findings], key=lambda finding: finding.position)
        name = signal.Signals(-status).name
        if reached is None or reached.segment in skip:
            raise EventLogError(f"verify's reader was killed by {name}")
        detail = f"reading segment {reached.segment} on from here killed the reader with {name}"
        deaths.append(Finding(max(reached.position + 1, reached.segment), "segments", detail))
        skip.add(reached.segment)


def _child(
    directory: Path, skip: Collection[int], on_progress: Callable[[Progress], None]
) -> tuple[list[Finding], Progress | None, int]:
    """One child's findings, how far it came, and how it ended: 0, or minus the signal."""
    findings: list[Finding] = []
    reached: Progress | None = None
    child = subprocess.Popen(
        [*CHILD, str(directory), *map(str, sorted(skip))],
        cwd=Path(__file__).parent.parent,  # -m looks there first: not where the user stands
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            for text in child.stdout:
                if not text.endswith(b"\n"):
                    break  # killed while it wrote
                line = _decode_line(text)
                if line.finding is not None:
                    findings.append(line.finding)
                elif line.progress is not None:
                    reached = line.progress
                    on_progress(reached)
            errors = child.stderr.read().decode(errors="replace").strip()
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    if status > 0:
        raise EventLogError(errors.rpartition("\n")[2] or f"verify's reader ended with {status}")
    return findings, reached, status


CHILD = [sys.executable, "-m", "eventlog.verify"]
_decode_line = msgspec.json.Decoder(_Line).decode


def main(arguments: list[str]) -> int:
    encode = msgspec.json.Encoder().encode
    directory, *skip = arguments
    try:
        for item in check(Path(directory), [int(first) for first in skip]):
            if isinstance(item, Progress):
                line = _Line(progress=item)
            else:  # a path in an error's text may be no UTF-8
                text = item.detail.encode(errors="replace").decode()
                line = _Line(finding=Finding(item.position, item.promise, text))
            sys.stdout.buffer.write(encode(line) + b"\n")
            if line.progress:
                sys.stdout.buffer.flush()
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody listens: let the interpreter's own flush pass
    except EventLogError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
