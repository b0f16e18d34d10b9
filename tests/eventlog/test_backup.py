"""A backup is a log of its own: a prefix without a gap, whatever writers do meanwhile, or it is not there at all."""

from __future__ import annotations

import errno
import os
import resource
import stat
import threading
from pathlib import Path

import lmdb
import pytest

from eventlog.backup import Backup, backup
from eventlog.errors import SegmentError
from eventlog.prune import plan, prune
from eventlog.segment import Segment, segment_name
from eventlog.store import Store
from tests.eventlog.maintenance_helpers import (
    SECOND_NS,
    TINY_CAP,
    append,
    contents,
    cut,
    data_file,
    findings,
    log_of,
    log_of_segments,
    output,
    whole_session,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "home" / "log"


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "monday"


def map_size(segment: Path) -> int:
    with lmdb.open(str(segment), map_size=0, max_dbs=8, create=False) as env:
        return int(env.info()["map_size"])


def test_a_backup_holds_every_event_and_session_and_verifies_clean(log: Path, destination: Path) -> None:
    firsts = log_of_segments(log, 3)
    told: list[tuple[int, int]] = []
    with Store(log, cap_bytes=TINY_CAP) as store:
        done = backup(store, destination, lambda *progress: told.append(progress))
        truth, rows = contents(store), store.sessions()

    assert findings(destination / "log") == []
    with Store(destination / "log", create=False) as copy:
        assert contents(copy) == truth
        assert copy.sessions() == rows
        assert copy.segments() == firsts
        assert copy.log_id == store.log_id
    sizes = sum(data_file(destination / "log", first).stat().st_size for first in firsts)
    assert done == Backup(3, sizes, truth[-1].last)
    assert [done_bytes for done_bytes, _ in told] == sorted({done_bytes for done_bytes, _ in told})
    assert told[0][0] == 0
    assert told[-1][0] == told[-1][1] > 0


def test_a_backup_is_a_home_that_can_be_written(log: Path, destination: Path) -> None:
    """Its map is as large as the original's, so it fills and rolls over as that would."""
    log_of_segments(log, 2)
    with Store(log, cap_bytes=TINY_CAP) as store:
        backup(store, destination)
        head = store.head()

    with Store(destination / "log", cap_bytes=TINY_CAP) as copy:
        for n in range(8):
            append(copy, [output((1_000 + n) * SECOND_NS, *[b"." * 3_000 + b"\n"] * 10)])
        assert copy.head() == head + 80
        assert len(copy.segments()) > 2
    assert findings(destination / "log") == []
    first = segment_name(1)
    assert map_size(destination / "log" / first) == map_size(log / first)


def test_a_backup_holds_only_the_log_and_is_private(log: Path, destination: Path) -> None:
    log_of(log, whole_session())
    with Store(log) as store:
        backup(store, destination)

    assert sorted(path.relative_to(destination).as_posix() for path in destination.rglob("*")) == [
        "log",
        f"log/{segment_name(1)}",
        f"log/{segment_name(1)}/data.mdb",
    ]
    assert stat.S_IMODE(destination.stat().st_mode) == 0o700
    assert stat.S_IMODE((destination / "log").stat().st_mode) == 0o700


def test_a_backup_beside_a_writer_that_rolls_over_is_a_prefix_without_a_gap(log: Path, destination: Path) -> None:
    log_of_segments(log, 2)
    stop = threading.Event()
    with Store(log, cap_bytes=TINY_CAP) as store:

        def write() -> None:
            elapsed_ns = 1_000 * SECOND_NS
            while not stop.is_set():
                elapsed_ns += SECOND_NS
                append(store, [output(elapsed_ns, *[b"." * 500 + b"\n"] * 20)])

        before = store.head()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(4):
                done = backup(store, destination / str(number))
                assert before <= done.head
                before = done.head
        finally:
            stop.set()
            writer.join()
        truth = contents(store)
        assert store.head() > done.head

    for number in range(4):
        copied = destination / str(number) / "log"
        assert findings(copied) == []
        with Store(copied, create=False) as copy:
            assert contents(copy) == [record for record in truth if record.last <= copy.head()]
            assert copy.first == 1


def test_a_segment_that_is_sealed_after_it_was_listed_is_the_last_and_says_what_comes_next(
    log: Path, destination: Path
) -> None:
    """The roll-over happens while the one before it is copied."""
    firsts = log_of_segments(log, 2)
    with Store(log, cap_bytes=TINY_CAP) as store:

        def roll_over(done_bytes: int, of_bytes: int) -> None:
            if 0 < done_bytes < of_bytes:
                while len(store.segments()) == 2:
                    elapsed_ns = (store.sessions()[0].last_elapsed_ns // SECOND_NS + 1) * SECOND_NS
                    append(store, [output(elapsed_ns, *[b"." * 900 + b"\n"] * 20)])

        done = backup(store, destination, roll_over)
        third = store.segments()[2]

    assert done.segments == 2
    assert done.head == third - 1
    copied = destination / "log"
    assert findings(copied) == []
    with Store(copied, cap_bytes=TINY_CAP) as copy:
        assert copy.segments() == firsts
        assert append(copy, [output(10**6 * SECOND_NS, b"x\n")]) == [third]
        assert copy.segments() == [*firsts, third]
    assert findings(copied) == []


def test_a_prune_waits_until_the_backup_has_all_it_listed(log: Path, destination: Path) -> None:
    log_of_segments(log, 3)
    with Store(log, cap_bytes=TINY_CAP) as store:
        doomed = plan(store, now_ns=0, keep_bytes=0, is_running=lambda row: False)
        pruner = threading.Thread(target=prune, args=(store, doomed))
        alive: list[bool] = []

        def begin(done_bytes: int, of_bytes: int) -> None:
            if not done_bytes:
                pruner.start()
            pruner.join(0.05)
            alive.append(pruner.is_alive())

        done = backup(store, destination, begin)
        pruner.join()

        assert alive == [True] * 4
        assert done.segments == 3
        assert len(store.segments()) == 1
    assert findings(destination / "log") == []


# -- where it goes -------------------------------------------------------------------------------------------------


def test_an_empty_directory_is_filled_in_place(log: Path, destination: Path) -> None:
    """It may be a disk's mount point, which cannot be renamed onto."""
    log_of(log, whole_session())
    destination.mkdir(parents=True)
    inode = destination.stat().st_ino
    with Store(log) as store:
        backup(store, destination)

    assert destination.stat().st_ino == inode
    assert findings(destination / "log") == []


@pytest.mark.parametrize("occupied_by", ["file", "entry", "backup"])
def test_what_is_there_is_never_written_over(log: Path, destination: Path, occupied_by: str) -> None:
    log_of(log, whole_session())
    with Store(log) as store:
        if occupied_by == "backup":
            backup(store, destination)
        else:
            file = destination if occupied_by == "file" else destination / "mine"
            file.parent.mkdir(parents=True)
            file.write_text("mine")
        before = {path: path.stat().st_mtime_ns for path in [destination, *destination.rglob("*")]}

        with pytest.raises(FileExistsError) as caught:
            backup(store, destination)

    assert caught.value.filename == str(destination)
    assert {path: path.stat().st_mtime_ns for path in [destination, *destination.rglob("*")]} == before


# -- failure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("was_there", [False, True])
def test_a_write_that_fails_is_an_os_error_and_leaves_nothing(log: Path, destination: Path, was_there: bool) -> None:
    """A real failure: no file may grow beyond half of what the segment needs."""
    log_of_segments(log, 2)
    if was_there:
        destination.mkdir(parents=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store(log, cap_bytes=TINY_CAP) as store:
        head = store.head()
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                backup(store, destination)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG
        assert store.head() == head
        append(store, [output(10**12, b"x\n")])

    assert destination.exists() == was_there
    assert not was_there or list(destination.iterdir()) == []


def test_a_full_disk_is_told_as_such(log: Path, destination: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_of(log, whole_session())

    def full(segment: Segment, into: Path) -> None:
        (into / "data.mdb").write_bytes(b"half")
        error = lmdb.DiskError("mdb_env_copyfd3: No space left on device")
        vars(error).update(code=errno.ENOSPC, reason=os.strerror(errno.ENOSPC))
        raise error

    monkeypatch.setattr(Segment, "copy", full)
    with Store(log) as store, pytest.raises(OSError, match="No space left on device") as caught:
        backup(store, destination)

    assert caught.value.errno == errno.ENOSPC
    assert not destination.exists()


def test_a_log_that_cannot_be_read_is_not_backed_up_in_part(log: Path, destination: Path) -> None:
    firsts = log_of_segments(log, 3)
    cut(data_file(log, firsts[1]), 50_000)

    with Store(log) as store, pytest.raises(SegmentError, match="truncated") as caught:
        backup(store, destination)

    assert caught.value.path == log / segment_name(firsts[1])
    assert not destination.exists()


def test_an_interrupted_backup_leaves_nothing(log: Path, destination: Path) -> None:
    log_of_segments(log, 2)

    def interrupt(done_bytes: int, of_bytes: int) -> None:
        if done_bytes:
            raise KeyboardInterrupt

    with Store(log, cap_bytes=TINY_CAP) as store, pytest.raises(KeyboardInterrupt):
        backup(store, destination, interrupt)

    assert not destination.exists()
    assert os.listdir(destination.parent) == []
