"""No room for the log: who waits is told, what was read goes on, and with room everything offered is written once.

LMDB says DiskError for ENOSPC, a plain Error "File too large" for EFBIG and, where a write is cut short, a plain Error
"Input/output error", whatever the reason.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventlog.store import Store
from tests.eventlog.helpers import (
    PATIENCE_S,
    SESSION,
    TINY_CAP_BYTES,
    FullDisk,
    Room,
    SmallFiles,
    everything,
    fail_to_open,
    gapless,
    lines_of,
    numbers,
    pipe,
    positions_of,
    read_all,
    received,
    running,
    write_without_room,
)

# How much is left when it becomes scarce: nothing; less than a commit's pages, so that a write is cut short; more.
LEAVES = (0, 4_096, 12_288, 40_960, 100_000)
ONE_SEGMENT = 1 << 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small tmpfs that this test fills")
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"mounting the small tmpfs that this test fills failed: {mount.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


Told = tuple[str, str, int, int, int]


def run_out(directory: Path, cap_bytes: int, room: Room, lines: int) -> list[Told]:
    """What the waiters of a process without room were told; all that it offered is checked to be there once."""
    ours, theirs = pipe()
    with running(write_without_room, directory, cap_bytes, room, LEAVES, lines, theirs) as writer:
        told: list[Any] = [received(ours, f"it ran out with {leave} bytes left and went on") for leave in LEAVES]
        offered = received(ours, "it closed its log")
        writer.join(PATIENCE_S)
        assert writer.exitcode == 0

    with Store(directory, create=False) as store:
        events = everything(store)
    assert gapless(events)
    assert len(lines_of(events)) == offered
    assert numbers(SESSION, lines_of(events))
    for _, _, head, later, readable in told:
        assert head < later
        assert readable == len(lines_of(events[:head])), "what was on disk could be read all the while"
    return told


def test_under_a_limit_of_file_size_the_log_waits_for_more(tmp_path: Path) -> None:
    told = run_out(tmp_path / "log", ONE_SEGMENT, SmallFiles, lines=50)

    assert {name for name, *_ in told} == {"Error"}
    assert all("File too large" in text or "Input/output error" in text for _, text, *_ in told), told


def test_on_a_full_disk_the_log_waits_for_room(small_disk: Path) -> None:
    told = run_out(small_disk / "log", ONE_SEGMENT, FullDisk, lines=50)

    assert {name for name, *_ in told} == {"DiskError"}, told
    assert all("No space left" in text or "the disk is full" in text for _, text, *_ in told), told


def test_on_a_full_disk_the_next_segment_waits_for_room(small_disk: Path) -> None:
    """LMDB makes its lock file sparse and maps it: the first touch of it on a full disk killed the recorder."""
    told = run_out(small_disk / "log", TINY_CAP_BYTES, FullDisk, lines=200)

    assert {name for name, *_ in told} == {"DiskError"}, told
    assert not [path.name for path in (small_disk / "log").iterdir() if path.name.startswith(".")]


def test_on_a_full_disk_another_process_can_open_the_log_and_read_it(small_disk: Path) -> None:
    run_out(small_disk / "log", TINY_CAP_BYTES, FullDisk, lines=200)
    FullDisk(small_disk / "log").take(0)
    ours, theirs = pipe()

    with running(read_all, small_disk / "log", theirs):
        read = received(ours, "the log was read")

    with Store(small_disk / "log", create=False) as store:
        assert read == positions_of(everything(store))


def test_on_a_full_disk_a_new_log_is_refused_and_leaves_nothing_behind(small_disk: Path) -> None:
    FullDisk(small_disk / "log").take(0)
    ours, theirs = pipe()

    with running(fail_to_open, small_disk / "log", True, theirs):
        name, text = received(ours, "it was refused")

    assert (name, "No space left" in text) in {("OSError", True), ("DiskError", True)}
    assert not (small_disk / "log").exists() or not list((small_disk / "log").iterdir())
