"""One child: started as a login would start it, found as a shell would find it, and what it inherits."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from server.recorder.process import Process, SpawnError, find_program, signal_name, spawn
from server.recorder.pty import set_size
from tests.server.recorder.helpers import PATIENCE_S, descriptors

ROOT = Path(__file__).resolve().parents[3]
AGENT = [sys.executable, "-S", str(ROOT / "tools" / "fake_agent.py"), "--json"]
ENV = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


class Ended(NamedTuple):
    status: int
    signal: str | None
    output: bytes
    errors: bytes


def start(
    argv: Sequence[str], *, pty: bool = False, cwd: Path | str = "/", env: Mapping[str, str] = ENV, cols: int = 80
) -> Process:
    return spawn(argv, cwd=str(cwd), env=env, pty=pty, cols=cols)


@contextmanager
def child(*argv: str, pty: bool = False) -> Iterator[Process]:
    """A child that does not outlive the block."""
    process = start(argv, pty=pty)
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        process.close()


def read_until(fd: int, expected: bytes | None, timeout_s: float = PATIENCE_S) -> bytes:
    """All that comes until *expected* is in it; None: until the end."""
    seen = b""
    deadline = time.monotonic() + timeout_s
    while expected is None or expected not in seen:
        assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], f"{expected!r} is not in {seen!r}"
        try:
            data = os.read(fd, 65_536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:
            assert expected is None, seen
            break
        seen += data
    return seen


async def run(
    *argv: str, pty: bool = False, cwd: Path | str = "/", env: Mapping[str, str] = ENV, stdin: bytes = b""
) -> Ended:
    """Start, give it *stdin*, read all, wait."""
    process = start(argv, pty=pty, cwd=cwd, env=env)
    read: dict[str, bytes] = {}

    def reader(stream: str, fd: int) -> None:
        read[stream] = read_until(fd, None)

    threads = [threading.Thread(target=reader, args=item) for item in process.outputs.items()]
    for thread in threads:
        thread.start()
    assert process.input_fd is not None
    if stdin:
        os.write(process.input_fd, stdin)
    process.close_input()
    with trio.fail_after(PATIENCE_S):
        exit_ = await process.wait()
    for thread in threads:
        thread.join(PATIENCE_S)
    process.close()
    return Ended(exit_.status, exit_.signal, read.get("pty", read.get("stdout", b"")), read.get("stderr", b""))


# -- the terminal --------------------------------------------------------------------------------------------------


async def test_the_terminal_controls_the_child_which_leads_its_session_and_foreground() -> None:
    ended = await run("sh", "-c", "tty; ps -o pid=,sid=,pgid=,tpgid= -p $$; echo reached >/dev/tty", pty=True)

    tty, ids, reached = ended.output.decode().splitlines()
    assert tty.startswith("/dev/pts/")
    assert len(set(ids.split())) == 1
    assert reached == "reached"


def test_job_control_works_under_an_interactive_shell() -> None:
    """A foreground job gets the terminal and a process group of its own; the shell takes it back."""
    with child("bash", "--norc", "-i", pty=True) as shell:
        fd = shell.outputs["pty"]
        os.write(fd, b"PS1='ready> '\n")
        read_until(fd, b"\nready> ")
        os.write(fd, b"sh -c 'ps -o pgid=,tpgid= -p $$; echo job; read stop'\n")
        said = read_until(fd, b"\r\njob\r\n").decode()
        pgid, tpgid = said.splitlines()[-2].split()
        assert pgid == tpgid != str(shell.pid)
        os.write(fd, b"\x1a")  # Ctrl-Z stops the job, not the shell
        assert b"Stopped" in read_until(fd, b"ready> ")
        os.write(fd, b"fg\n")
        read_until(fd, b"read stop'\r\n")
        os.write(fd, b"\n")
        read_until(fd, b"ready> ")
        assert "no job control" not in said


async def test_the_window_has_its_size_before_the_child_looks() -> None:
    process = start([*AGENT, json.dumps({"step": [{"winsize": {}}]})], pty=True, cols=132)

    assert read_until(process.outputs["pty"], b"\n") == b"132x24\r\n"
    await process.wait()
    process.close()


def test_a_resize_sends_sigwinch_to_the_child() -> None:
    with child(*AGENT, json.dumps({"step": [{"winsize": {"changes": 1}}]}), pty=True) as process:
        read_until(process.outputs["pty"], b"80x24\r\n")
        set_size(process.outputs["pty"], 100, 30)

        assert b"100x30\r\n" in read_until(process.outputs["pty"], b"100x30\r\n")


def test_closing_a_terminal_sends_sighup_to_its_foreground(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with child(
        "sh", "-c", f"trap 'echo hup > {told}; exit' HUP; echo ready; while :; do sleep 0.02; done", pty=True
    ) as p:
        read_until(p.outputs["pty"], b"ready")
        os.close(p.outputs.pop("pty"))
        p.input_fd = None
        os.waitpid(p.pid, 0)

    assert told.read_text() == "hup\n"


# -- what a child inherits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pty", [True, False])
async def test_sigpipe_ends_a_childs_pipeline_as_it_does_in_a_shell(pty: bool) -> None:
    """CPython ignores SIGPIPE, and a child would inherit that: ``yes | head -1`` then complains."""
    ended = await run("bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}", pty=pty)

    assert ended.output.replace(b"\r", b"") == b"y\n141\n"
    assert ended.errors == b""


async def test_no_signal_is_ignored_or_blocked_in_the_child() -> None:
    ended = await run("grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")

    ignored = {line.split()[0]: int(line.split()[1], 16) for line in ended.output.decode().splitlines()}
    assert ignored["SigBlk:"] == 0
    assert not ignored["SigIgn:"] & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


@pytest.mark.parametrize("pty", [True, False])
async def test_no_descriptor_of_ours_leaks_into_the_child(pty: bool) -> None:
    with open(os.devnull) as ours:
        assert not os.get_inheritable(ours.fileno())
        ended = await run("ls", "/proc/self/fd", pty=pty)

    theirs = set(map(int, ended.output.split()))
    passed_on = {fd for fd in descriptors() if os.get_inheritable(fd)}  # by whoever started the tests
    assert theirs >= {0, 1, 2}
    assert len(theirs - passed_on - {0, 1, 2}) == 1  # ls's own, for the directory


async def test_it_runs_in_the_directory_and_environment_it_is_given(tmp_path: Path) -> None:
    before = os.getcwd()

    ended = await run("sh", "-c", "pwd; env", cwd=tmp_path, env={"PATH": ENV["PATH"], "ONLY": "this"})

    said = ended.output.decode().splitlines()
    assert said[0] == str(tmp_path)
    assert "ONLY=this" in said
    assert not any(line.startswith(("HOME=", "PYTHON", "STENO")) for line in said)
    assert os.getcwd() == before


async def test_pipes_keep_stdout_and_stderr_apart_and_stdin_ends() -> None:
    ended = await run("sh", "-c", "cat; echo err >&2", stdin=b"in")

    assert (ended.output, ended.errors, ended.status) == (b"in", b"err\n", 0)


@pytest.mark.parametrize("pty", [True, False])
async def test_a_child_leaves_no_descriptor_behind(pty: bool) -> None:
    await run("true", pty=pty)
    before = descriptors()
    for _ in range(5):
        await run("true", pty=pty)
        with pytest.raises(SpawnError):
            start(["no-such-program"], pty=pty)

    assert descriptors() == before


# -- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "name"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, None),
        ("exit 255", 255, None),
        ("kill -TERM $$", 143, "SIGTERM"),
        ("kill -KILL $$", 137, "SIGKILL"),
        ("kill -40 $$", 168, "SIG40"),
    ],
)
async def test_its_status_is_the_shells(script: str, status: int, name: str | None) -> None:
    ended = await run("sh", "-c", script)

    assert (ended.status, ended.signal) == (status, name)


def test_every_signal_has_a_name() -> None:
    assert [signal_name(n) for n in (1, 9, 15, 34, 40, 64)] == [
        "SIGHUP",
        "SIGKILL",
        "SIGTERM",
        "SIGRTMIN",
        "SIG40",
        "SIGRTMAX",
    ]


async def test_a_signal_reaches_the_childs_group_and_none_that_is_gone() -> None:
    process = start(["sh", "-c", "sleep 60 & echo ready; wait"])
    read_until(process.outputs["stdout"], b"ready\n")
    process.send_signal(signal.SIGTERM)
    assert read_until(process.outputs["stdout"], None) == b""  # the sleep that holds stdout is gone too
    assert (await process.wait()).signal == "SIGTERM"

    process.send_signal(signal.SIGTERM)
    process.close()


# -- finding it ----------------------------------------------------------------------------------------------------


def program(path: Path, text: str = "#!/bin/sh\necho found\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_a_script_without_interpreter_runs_in_sh_as_a_shell_would_run_it(tmp_path: Path) -> None:
    script = program(tmp_path / "plain", 'echo "$0 $1"\n')

    assert (await run(str(script), "argument")).output == f"{script} argument\n".encode()


async def test_the_childs_own_path_is_searched_also_where_it_is_relative(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "tool")

    assert (await run("tool", cwd=tmp_path, env={"PATH": "/nowhere:bin"})).output == b"found\n"
    assert (await run("tool", cwd=tmp_path / "bin", env={"PATH": "/nowhere:"})).output == b"found\n"


def test_one_that_may_not_be_run_is_passed_over_for_one_that_may(tmp_path: Path) -> None:
    program(tmp_path / "a" / "tool", mode=0o644)
    (tmp_path / "b" / "tool").mkdir(parents=True)
    program(tmp_path / "c" / "tool")

    found = find_program(["tool"], {"PATH": ":".join(str(tmp_path / d) for d in "abc")})
    assert found == str(tmp_path / "c" / "tool")


@pytest.mark.parametrize(
    ("argv0", "status", "reason"),
    [
        ("no-such-program", 127, "command not found"),
        ("/no/such/program", 127, "command not found"),
        ("", 127, "an empty command"),
        ("{here}/data", 126, "permission denied"),
        ("{here}/folder", 126, "is a directory"),
        ("{here}/orphan", 126, "No such file or directory"),
    ],
)
@pytest.mark.parametrize("pty", [True, False])
def test_what_cannot_be_run_says_why_with_the_shells_status(
    tmp_path: Path, argv0: str, status: int, reason: str, pty: bool
) -> None:
    program(tmp_path / "data", mode=0o644)
    program(tmp_path / "orphan", "#!/no/such/interpreter\n")
    (tmp_path / "folder").mkdir()

    with pytest.raises(SpawnError) as failed:
        start([argv0.format(here=tmp_path), "argument"], pty=pty)

    assert (failed.value.status, failed.value.reason) == (status, reason)
    assert argv0.format(here=tmp_path) in str(failed.value)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpawnError, match=f"cannot enter {tmp_path}/gone: No such file or directory"):
        start(["true"], cwd=tmp_path / "gone")
