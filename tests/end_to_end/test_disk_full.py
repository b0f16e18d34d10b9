"""``steno run`` on a disk that fills up: the child waits, the user is told, and with room nothing is missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.helpers import PATIENCE_S, Steno, agent, read_until, wait_until

LINES, WIDTH = 150_000, 79  # twelve megabytes, on a disk of eight


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small tmpfs that this test fills")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting the small tmpfs that this test fills failed: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def steno(disk: Path) -> Iterator[Steno]:
    with Steno(disk / "home") as steno:
        yield steno


def give_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=80m", disk], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"." * 4096)


def test_the_child_waits_and_with_room_everything_is_recorded(steno: Steno, disk: Path) -> None:
    steps = [{"burst": {"lines": LINES, "width": WIDTH}}, {"exit": 3}]
    with steno.start("run", "--quiet", "--mode", "pipe", "--", *agent(*steps)) as running:
        told = read_until(running.stderr.fileno(), b"nothing is lost\n")  # type: ignore[union-attr]
        assert told.decode().startswith("error: the log cannot be written: ")
        assert running.poll() is None
        row = steno.session()
        assert (row.state, 0 < row.lines < LINES) == ("running", True)
        listed = steno("sessions", "--json")
        assert (listed.status, listed.err) == (0, "")
        assert steno("log", "--limit", "1").status == 0

        give_room(disk)
        assert running.wait(2 * PATIENCE_S) == 3
        rest = read_until(running.stderr.fileno(), None)  # type: ignore[union-attr]

    row = steno.session()
    assert rest.decode() == f"{row.session}\n"
    assert (row.state, row.exit_code, row.lines, row.bytes) == ("failed", 3, LINES, LINES * (WIDTH + 1))
    expected = subprocess.run(agent(steps[0]), capture_output=True, check=True).stdout
    assert steno.output() == expected
    steno.verified()


def test_a_recorder_killed_while_it_waits_leaves_a_log_that_tells_the_truth(steno: Steno, disk: Path) -> None:
    steps = [{"burst": {"lines": LINES, "width": WIDTH}}, {"delay_s": 60}]
    with steno.start("run", "--quiet", "--mode", "pipe", "--", *agent(*steps)) as running:
        read_until(running.stderr.fileno(), b"nothing is lost\n")  # type: ignore[union-attr]
        before = steno.output()
    fill(disk)
    wait_until(lambda: steno.rows("sessions")[0]["state"] == "lost", "it is called lost, full disk or not")
    assert steno("replay", steno.session().session, "--speed", "max").out == before

    give_room(disk)
    steno("sessions")
    assert steno.session().state == "lost"
    assert steno.output() == before
    steno.verified()


def test_a_session_that_cannot_begin_says_where_there_is_no_room(steno: Steno, disk: Path) -> None:
    fill(disk)
    done = steno("run", "--", "true")

    assert done.status == 125
    [error] = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert str(disk) in error
    assert "No space left on device" in error
    assert "Traceback" not in done.err
