"""What users get wrong, and what the world does to them: an exit status that says who failed, and a line that helps."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import msgspec
import pytest

from server.recorder.lock import RecorderLock
from tests.end_to_end.helpers import Done, Steno


@pytest.fixture
def steno(tmp_path: Path) -> Iterator[Steno]:
    with Steno(tmp_path / "home") as steno:
        yield steno


def at_home(home: Path, *argv: str) -> Done:
    with Steno(home) as steno:
        return steno(*argv)


def complaint(done: Done) -> str:
    """The one ``error:`` line; a traceback is never what a user gets."""
    assert "Traceback" not in done.err
    [error] = [line for line in done.err.splitlines() if line.startswith("error: ")]
    return error


# -- the command ---------------------------------------------------------------------------------------------------


def test_an_unknown_command_is_127(steno: Steno) -> None:
    done = steno("run", "--", "no-such-program")

    assert (done.status, complaint(done)) == (127, "error: no-such-program: command not found")
    assert steno.session().state == "failed"


def test_a_file_that_may_not_be_run_is_126(steno: Steno, tmp_path: Path) -> None:
    (tmp_path / "data").touch()

    done = steno("run", "--", str(tmp_path / "data"))
    assert (done.status, complaint(done)) == (126, f"error: {tmp_path}/data: permission denied")


def test_an_agents_name_is_no_path(steno: Steno, tmp_path: Path) -> None:
    done = steno("run", "--name", "../../x", "--", "true")

    assert (done.status, complaint(done)) == (2, "error: '../../x' cannot name an agent")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--cols", "0", "--", "true"],
        ["replay", "x", "--speed", "0"],
        ["log", "--limit", "-1"],
        ["sessions", "--limit", "-1"],
        ["sesions"],
        [],
    ],
)
def test_words_that_cannot_be_are_2(steno: Steno, words: list[str]) -> None:
    done = steno(*words)

    assert done.status == 2
    assert complaint(done)
    assert "try: " in done.err


# -- the home ------------------------------------------------------------------------------------------------------


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """*place* as a read-only file system, where we may mount; else without the right to write to it."""
    if os.geteuid() != 0:
        place.chmod(0o500)
        yield
        place.chmod(0o700)
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("root writes everywhere, and mounting a read-only file system failed")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_home_that_cannot_be_written_is_125_and_named(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    with read_only(tmp_path / "disk"):
        done = at_home(tmp_path / "disk" / "home", "run", "--", "true")
        listed = at_home(tmp_path / "disk" / "home", "sessions")

    assert done.status == 125
    assert str(tmp_path / "disk" / "home") in complaint(done)
    assert "try: --home DIR" in done.err
    assert (listed.status, str(tmp_path / "disk") in complaint(listed)) == (1, True)


@pytest.mark.parametrize("place", ["file", "file/home"])
def test_a_home_that_is_or_lies_under_a_file_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()

    done = at_home(tmp_path / place, "run", "--", "true")
    assert (done.status, str(tmp_path / "file") in complaint(done)) == (125, True)
    assert at_home(tmp_path / place, "sessions").status == 1


def test_a_home_of_a_newer_format_says_to_upgrade(steno: Steno) -> None:
    steno("run", "--quiet", "--", "true")
    [segment] = (steno.home / "log").glob("0*")
    with lmdb.open(str(segment), map_size=1 << 30, max_dbs=8) as environment:
        meta = environment.open_db(b"meta")
        with environment.begin(write=True) as txn:
            txn.put(b"format", msgspec.msgpack.encode(99), db=meta)

    recorded = steno("run", "--", "true")
    assert (recorded.status, complaint(recorded)) == (125, "error: the log has format 99, this program reads up to 1")
    for words in (["sessions"], ["log"], ["replay", "true"]):
        done = steno(*words)
        assert (done.status, "format 99" in complaint(done)) == (1, True)
        assert "try: upgrade steno" in done.err


def test_an_unknown_setting_is_named_with_the_nearest_one(steno: Steno) -> None:
    steno.home.mkdir()
    (steno.home / "config.toml").write_text("segment_byte = 1000000\n")

    done = steno("run", "--", "true")
    assert (done.status, "unknown setting 'segment_byte'" in complaint(done)) == (125, True)
    assert "try: the nearest known one is 'segment_bytes'" in done.err
    assert steno("sessions").status == 1


def test_a_home_with_a_path_of_150_characters_works(tmp_path: Path) -> None:
    home = tmp_path
    while len(str(home)) < 150:
        home = home / "a-directory-of-some-length"[: max(1, 149 - len(str(home)))]
    done = at_home(home, "run", "--mode", "pipe", "--", "echo", "hello")

    assert len(str(home)) >= 150
    assert (done.status, done.out) == (0, b"hello\n")
    assert at_home(home, "replay", done.session, "--speed", "max").out == b"hello\n"


def test_a_home_in_use_from_another_pid_namespace_is_refused(steno: Steno) -> None:
    (steno.home / "run").mkdir(parents=True)
    (steno.home / "run" / "kernel").write_text("another-boot 4026531836")
    lock = RecorderLock(steno.home / "run")

    done = steno("run", "--", "true")
    assert (done.status, "of another kernel or pid namespace" in complaint(done)) == (125, True)
    lock.release()
    assert steno("run", "--", "true").status == 0


# -- sessions ------------------------------------------------------------------------------------------------------


def test_a_session_that_is_unknown_or_ambiguous_is_said_to_be(steno: Steno) -> None:
    steno("run", "--quiet", "--name", "twin-a", "--", "true")
    steno("run", "--quiet", "--name", "twin-b", "--", "true")

    unknown, ambiguous = steno("replay", "nobody"), steno("show", "twin")
    assert (unknown.status, complaint(unknown)) == (1, "error: no session 'nobody'")
    assert (ambiguous.status, "is the beginning of 2 sessions" in complaint(ambiguous)) == (1, True)


def test_a_line_of_10_mb_goes_in_and_comes_out(steno: Steno) -> None:
    done = steno("run", "--mode", "pipe", "--", "sh", "-c", "head -c 10000000 /dev/zero | tr '\\0' x; echo")

    assert done.out == b"x" * 10_000_000 + b"\n"
    assert steno("replay", done.session, "--speed", "max").out == done.out
    assert steno.session().lines == 1
    steno.verified()


# -- damage --------------------------------------------------------------------------------------------------------


def test_a_log_damaged_in_the_middle_gives_all_before_it_and_then_says_so(steno: Steno) -> None:
    done = steno("run", "--quiet", "--mode", "pipe", "--", "seq", "-f", "line %g of many words", "20000")
    expected = "".join(f"line {number} of many words\n" for number in range(1, 20_001)).encode()
    [path] = (steno.home / "log").glob("*/data.mdb")
    data = bytearray(path.read_bytes())
    data[data.index(b"line 15000 of")] ^= 1
    path.write_bytes(data)

    for words in (["replay", done.session, "--speed", "max"], ["replay", done.session, "--speed", "1000"]):
        replayed = steno(*words)
        assert (replayed.status, complaint(replayed).startswith("error: position ")) == (1, True)
        assert expected.startswith(replayed.out)
        assert b"line 10000 of" in replayed.out
    listed = steno("log", done.session, "--json")
    assert (listed.status, complaint(listed).startswith("error: position ")) == (1, True)
    assert b"line 10000 of" in listed.out
    assert steno("verify", "--json").status == 1


def test_a_segment_that_was_cut_off_is_named_and_read_as_far_as_it_goes(steno: Steno, tmp_path: Path) -> None:
    steno("run", "--quiet", "--mode", "pipe", "--", "seq", "-f", "line %g of many words", "20000")
    whole = steno("log", "--json").out
    [path] = (steno.home / "log").glob("*/data.mdb")
    shutil.copy(path, tmp_path / "whole")
    for part in (2, 3, 10):
        shutil.copy(tmp_path / "whole", path)
        os.truncate(path, path.stat().st_size // part // 4096 * 4096)
        listed = steno("log", "--json")
        verified = steno("verify", "--json")

        assert (listed.status, bool(complaint(listed))) == (1, True)
        assert whole.startswith(listed.out)
        assert (verified.status, b"truncated" in verified.out) == (1, True)
    refused = steno("run", "--", "true")
    assert (refused.status, "truncated" in complaint(refused)) == (125, True)
