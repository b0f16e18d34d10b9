"""A copy of the log that is a log: while recorders write, and roll over to a next segment.

Each segment is copied by LMDB from one snapshot, oldest first, so the copies are a prefix of the log without a gap.
The one that was live stays open for writing in the copy, or, if it was sealed meanwhile, says where the next begins;
either way whoever opens the copy can append to it. Its ``map_size`` is the original's.

A snapshot that is read pins the pages freed since: a live segment grows while it is copied, about as much as is
written to it meanwhile.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lmdb
import msgspec

from eventlog.errors import SegmentError
from eventlog.prune import disk_bytes, retention_lock
from eventlog.segment import Segment, segment_name
from eventlog.store import Store


class Backup(msgspec.Struct, frozen=True):
    """What was copied: so many *segments* and *bytes*, up to position *head*."""

    segments: int
    bytes: int
    head: int


def backup(
    store: Store, destination: Path, on_progress: Callable[[int, int], None] = lambda done_bytes, of_bytes: None
) -> Backup:
    """Copy the log to ``destination/log``, durably; *destination* is then a home of its own.

    It is a new directory or an empty one, such as a disk's mount point; parents are made. The copy is built in it under
    another name and renamed when it is whole and synced; what is left of a failure is removed.

    Raises:
        FileExistsError: *destination* is a file, or not empty.
        OSError: no space, no permission …
        SegmentError: a segment cannot be read: `steno verify` says more.
    """
    made = not destination.exists()
    if not made and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(errno.EEXIST, "not an empty directory", str(destination))
    destination.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = destination / f".log-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(mode=0o700)
        with retention_lock(store.directory, shared=True):
            done = _copy(store, partial, on_progress)
        partial = partial.rename(destination / "log")
        _sync(destination)
        _sync(destination.absolute().parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if made:
            with suppress(OSError):
                destination.rmdir()
        raise
    return done


def _copy(store: Store, into: Path, on_progress: Callable[[int, int], None]) -> Backup:
    segments = store.segments()
    sizes = [disk_bytes(store.directory / segment_name(first)) for first in segments]
    copied_bytes = 0
    on_progress(0, sum(sizes))
    for number, first in enumerate(segments, 1):
        target = into / segment_name(first)
        target.mkdir(mode=0o700)
        try:
            with store.using(first) as segment:
                segment.copy(target)
        except lmdb.Error as error:
            if error.code > 0:  # an errno; LMDB's own are negative
                raise OSError(error.code, error.reason, str(target)) from error
            raise SegmentError(store.directory / segment_name(first), str(error)) from error
        copied_bytes += (target / "data.mdb").stat().st_size
        _sync(target)
        on_progress(sum(sizes[:number]), sum(sizes))
    _sync(into)
    return Backup(len(segments), copied_bytes, _head(into / segment_name(segments[-1])))


def _head(path: Path) -> int:
    segment = Segment(path)
    try:
        return segment.head()
    finally:
        segment.close()
        (path / "lock.mdb").unlink()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
