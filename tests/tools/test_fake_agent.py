"""The scripted child does what its script says: each verb, seen from outside through pipes and a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.fake_agent import ScriptError, compile_steps, load

ROOT = Path(__file__).resolve().parents[2]
# -S: no site-packages, which is quicker and shows that the standard library is all it needs.
AGENT = [sys.executable, "-S", str(ROOT / "tools" / "fake_agent.py")]
DEMO = ROOT / "tools" / "demo_scripts"
PATIENCE_S = 30.0  # a failing test ends; a passing one never waits for it

Step = dict[str, Any]


def argv(*steps: Step) -> list[str]:
    return [*AGENT, "--json", json.dumps({"step": steps})]


def play(*steps: Step, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv(*steps), input=stdin, capture_output=True, timeout=PATIENCE_S, check=False)


class Terminal:
    """A fake agent that leads a session on a PTY of 80x24, which is its controlling terminal."""

    def __init__(self, *steps: Step) -> None:
        self.master, slave = os.openpty()
        self.resize(80, 24)
        open_slave = (
            os.POSIX_SPAWN_OPEN,
            0,
            os.ttyname(slave),
            os.O_RDWR,
            0,
        )  # opened by a session leader: it controls
        copies = [(os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2), (os.POSIX_SPAWN_CLOSE, self.master)]
        command = argv(*steps)
        self.pid = os.posix_spawn(command[0], command, os.environ, file_actions=[open_slave, *copies], setsid=True)
        os.close(slave)
        self.status: int | None = None
        self.seen = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.master)[3] & termios.ECHO)

    def read_until(self, expected: bytes | None) -> bytes:
        """Return all that was written so far, once *expected* is in it; None: once nobody holds the terminal."""
        deadline = time.monotonic() + PATIENCE_S
        while expected is None or expected not in self.seen:
            assert select.select([self.master], [], [], deadline - time.monotonic())[0], self.seen
            try:
                self.seen += os.read(self.master, 65_536)
            except OSError:  # EIO: the last holder has closed it
                assert expected is None, self.seen
                break
        return self.seen

    def wait(self) -> int:
        """Return its exit status, negative for a signal, as subprocess does."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    with contextlib.ExitStack() as stack:
        yield lambda *steps: stack.enter_context(contextlib.closing(Terminal(*steps)))


def spawned(output: bytes) -> int:
    found = re.search(rb"spawned (\d+)", output)
    assert found, output
    return int(found[1])


def stat(pid: int) -> list[str]:
    """/proc/PID/stat from the third field on: state, parent …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent_of(pid: int) -> int:
    return int(stat(pid)[1])


def is_alive(pid: int) -> bool:
    """Whether it runs: a zombie, which nobody has reaped yet, does not."""
    try:
        return stat(pid)[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- output ---


def test_text_adds_nothing_and_line_adds_a_newline() -> None:
    assert play({"text": "héllo "}, {"line": "wörld"}, {"text": "\tend"}).stdout == "héllo wörld\n\tend".encode()


def test_bytes_that_are_no_text_are_written_as_they_are() -> None:
    assert play({"hex": "ff 00 1b5b"}, {"bytes_b64": "/wA="}).stdout == b"\xff\x00\x1b[\xff\x00"


def test_every_writing_verb_can_write_to_stderr() -> None:
    done = play(
        {"line": "a", "stream": "stderr"}, {"line": "b"}, {"burst": {"lines": 1, "width": 3}, "stream": "stderr"}
    )

    assert (done.stdout, done.stderr) == (b"b\n", b"a\n001\n")


def test_a_burst_is_the_same_for_the_same_seed_whether_slow_or_fast() -> None:
    fast = {"lines": 70, "width": 40, "seed": 7}
    slow = fast | {"interval_s": 0.0001}
    lines = play({"burst": fast}, {"burst": slow}, {"burst": fast | {"seed": 8}}).stdout.splitlines()

    assert lines[:70] == lines[70:140] != lines[140:]


def test_a_burst_numbers_its_lines_and_keeps_their_width() -> None:
    lines = play({"burst": {"lines": 20_000, "width": 50}}).stdout.splitlines()

    assert {len(line) for line in lines} == {50}
    assert [int(line[:8]) for line in lines] == list(range(1, 20_001))


def test_a_burst_loses_nothing_to_a_slow_reader_that_made_its_pipe_non_blocking() -> None:
    """EAGAIN and short writes: a shared pipe's end may be made non-blocking by anyone who holds it."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with subprocess.Popen(argv({"burst": {"lines": 10_000, "width": 99}}), stdout=theirs) as child:
        os.close(theirs)
        time.sleep(0.1)
        with open(ours, "rb") as output:
            data = output.read()

    assert (child.returncode, len(data)) == (0, 1_000_000)


def test_a_spinner_draws_over_itself_and_leaves_an_empty_row() -> None:
    written = play({"spinner": {"frames": ["- one", "+ two"], "seconds": 0.03, "interval_s": 0.01}}).stdout

    assert written == b"\r- one\r+ two\r- one\r\x1b[K"


# --- time and order ---


def test_delay_s_waits_before_its_step_and_alone_is_a_pause() -> None:
    began = time.monotonic()
    play({"line": "x", "delay_s": 0.1}, {"delay_s": 0.1})

    assert time.monotonic() - began >= 0.2


def test_what_came_before_a_delay_is_visible_during_it() -> None:
    with subprocess.Popen(argv({"text": "now"}, {"delay_s": 60}), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.read(3) == b"now"
        child.kill()


def test_repeat_runs_its_steps_again_and_nests() -> None:
    inner = {"repeat": 2, "step": [{"text": "b"}]}

    assert play({"repeat": 3, "step": [{"text": "a"}, inner]}, {"text": "."}).stdout == b"abbabbabb."


def test_repeat_forever_ends_as_a_c_program_does_when_its_reader_leaves() -> None:
    with subprocess.Popen(argv({"repeat": "forever", "step": [{"line": "x"}]}), stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.read(4) == b"x\nx\n"
        child.stdout.close()

    assert child.returncode == -signal.SIGPIPE


# --- input ---


def test_a_prompt_takes_one_line_and_leaves_the_rest_for_the_next() -> None:
    ask = {"prompt": "Continue? [y/N] ", "echo_answer": True}

    assert play(ask, ask, ask, stdin=b"y\nno").stdout == (
        b"Continue? [y/N] answer: y\nContinue? [y/N] answer: no\nContinue? [y/N] answer: (end of input)\n"
    )


def test_a_prompt_fails_on_an_answer_it_does_not_expect() -> None:
    good = play({"prompt": "? ", "expect": "y"}, {"text": "on"}, stdin=b"y\n")
    bad = play({"prompt": "? ", "expect": "y"}, {"text": "on"}, stdin=b"n\n")

    assert (good.returncode, good.stdout) == (0, b"? on")
    assert (bad.returncode, bad.stdout) == (3, b"? ")
    assert bad.stderr == b"error: step 1: the answer was 'n', the script expects 'y'\n"


def test_a_prompt_on_a_terminal_waits_for_the_answer(terminal: Callable[..., Terminal]) -> None:
    child = terminal({"prompt": "Continue? [y/N] ", "expect": "y"}, {"line": "going on"}, {"exit": 5})
    child.read_until(b"Continue? [y/N] ")
    child.type(b"y\r")

    assert child.read_until(None) == b"Continue? [y/N] y\r\ngoing on\r\n"
    assert child.wait() == 5


def test_a_secret_prompt_turns_echo_off_until_it_is_answered(terminal: Callable[..., Terminal]) -> None:
    child = terminal({"secret_prompt": "Password: ", "expect": "hunter2"}, {"prompt": "user: "})
    child.read_until(b"Password: ")
    assert not child.echoes()
    child.type(b"hunter2\r")
    child.read_until(b"user: ")
    assert child.echoes()
    child.type(b"me\r")

    assert child.read_until(None) == b"Password: \r\nuser: me\r\n"
    assert child.wait() == 0


def test_a_secret_prompt_without_a_terminal_is_a_prompt() -> None:
    done = play({"secret_prompt": "Password: ", "echo_answer": True}, stdin=b"pw\n")

    assert (done.returncode, done.stdout) == (0, b"Password: answer: pw\n")


def test_read_all_reports_the_length_and_digest_of_stdin() -> None:
    done = play({"read_all": True}, stdin=b"abc")

    assert done.stdout == b"stdin: 3 bytes, sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"


# --- the terminal ---


def test_winsize_tells_the_size_and_each_change_of_it(terminal: Callable[..., Terminal]) -> None:
    child = terminal({"winsize": {"changes": 2}}, {"winsize": True})
    child.read_until(b"80x24\r\n")
    child.resize(100, 30)
    child.read_until(b"100x30\r\n")
    child.resize(120, 40)

    assert child.read_until(None) == b"80x24\r\n100x30\r\n120x40\r\n120x40\r\n"


def test_ctrl_c_ends_it_while_it_waits_for_a_resize(terminal: Callable[..., Terminal]) -> None:
    child = terminal({"winsize": {"changes": 1}})
    child.read_until(b"80x24\r\n")
    child.type(b"\x03")

    assert child.wait() == -signal.SIGINT


def test_a_closed_stdout_is_the_end_of_output_and_not_of_the_child() -> None:
    steps = (
        {"text": "last"},
        {"close": "stdout"},
        {"text": "alive", "stream": "stderr"},
        {"prompt": "", "stream": "stderr"},
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv(*steps), **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.read() == b"last"
        assert child.stderr.read(5) == b"alive"
        assert child.poll() is None
        child.communicate(b"\n")

    assert child.returncode == 0


def test_writing_to_a_closed_stream_fails_that_step() -> None:
    done = play({"close": "stdout"}, {"text": "x"})

    assert (done.returncode, done.stderr) == (3, b"error: step 2: [Errno 9] Bad file descriptor\n")


# --- endings ---


def test_it_exits_with_the_status_it_is_told_and_runs_nothing_after() -> None:
    done = play({"exit": 42}, {"text": "never"})

    assert (done.returncode, done.stdout) == (42, b"")


@pytest.mark.parametrize("name", ["KILL", "SIGTERM", "INT"])
def test_it_ends_by_the_signal_it_is_told_even_where_that_was_ignored(name: str) -> None:
    number = signal.Signals["SIG" + name.removeprefix("SIG")]
    ignoring = [] if name == "KILL" else [{"ignore": [name]}]

    assert play(*ignoring, {"signal": name}).returncode == -number


def test_a_crash_is_an_abort() -> None:
    assert play({"text": "so far"}, {"crash": True}).returncode == -signal.SIGABRT


def test_ignored_signals_do_not_end_it() -> None:
    steps = {"ignore": ["TERM", "INT"]}, {"text": "ready"}, {"prompt": ""}, {"exit": 7}
    with subprocess.Popen(argv(*steps), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.read(5) == b"ready"
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        child.communicate(b"\n")

    assert child.returncode == 7


# --- grandchildren ---


def test_a_grandchild_that_holds_nothing_outlives_its_parent_and_keeps_no_pipe_open() -> None:
    done = play({"spawn": {"seconds": 60, "text": "hi\n", "print_pid": True}}, {"line": "parent ends"})
    pid = spawned(done.stdout)

    assert re.fullmatch(rb"hi\nspawned \d+\nparent ends\n", done.stdout)
    assert is_alive(pid)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid))


def test_a_grandchild_can_hold_the_pipe_and_write_after_its_parent_is_gone() -> None:
    late = [{"line": "late", "delay_s": 0.1}]
    done = play({"spawn": {"hold_terminal": True, "step": late}}, {"line": "parent ends"})

    assert done.stdout == b"parent ends\nlate\n"


@pytest.mark.parametrize("setsid", [False, True])
def test_a_grandchild_can_hold_the_terminal_of_a_session_whose_leader_is_gone(
    terminal: Callable[..., Terminal], setsid: bool
) -> None:
    spawn = {"setsid": setsid, "hold_terminal": True, "step": [{"line": "late", "delay_s": 0.1}]}
    child = terminal({"spawn": spawn}, {"exit": 1})

    assert child.wait() == 1
    assert child.read_until(None) == b"late\r\n"


@pytest.mark.parametrize("setsid", [False, True])
def test_a_grandchild_is_in_its_parents_session_unless_it_made_its_own(setsid: bool) -> None:
    steps = {"spawn": {"setsid": setsid, "seconds": 60, "print_pid": True}}, {"prompt": ""}
    with subprocess.Popen(argv(*steps), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pid = spawned(child.stdout.readline())
        assert os.getsid(pid) == (pid if setsid else os.getsid(child.pid))
        os.kill(pid, signal.SIGKILL)
        child.communicate(b"\n")


def test_a_grandchild_that_ignores_term_needs_kill() -> None:
    pid = spawned(play({"spawn": {"ignore_term": True, "seconds": 60, "print_pid": True}}).stdout)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.05)
    assert is_alive(pid)

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))


def test_a_grandchild_is_waited_for_where_the_script_says_so() -> None:
    step = [{"line": "child", "delay_s": 0.05}, {"exit": 9}]

    assert (
        play({"spawn": {"wait": True, "hold_terminal": True, "step": step}}, {"text": "parent"}).stdout
        == b"child\nparent"
    )


def test_an_orphan_is_a_grandchild_whose_parent_is_gone() -> None:
    orphan = {"spawn": {"seconds": 60, "print_pid": True}}
    between = {"hold_terminal": True, "wait": True, "print_pid": True, "step": [{"delay_s": 0.02}, orphan]}
    with subprocess.Popen(
        argv({"spawn": between}, {"line": "between is gone"}, {"prompt": ""}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        pids = {spawned(child.stdout.readline()) for _ in range(2)}
        assert child.stdout.readline() == b"between is gone\n"
        [pid] = filter(is_alive, pids)
        assert parent_of(pid) not in {*pids, child.pid}
        os.kill(pid, signal.SIGKILL)
        child.communicate(b"\n")


# --- scripts that are wrong ---


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        ({"lin": "x"}, 'step 2: unknown verb "lin"\ntry: line'),
        ({"stream": "stderr", "tex": "x"}, 'step 2: unknown verb "tex"\ntry: text'),
        ({"line": "x", "delay": 1}, 'step 2: unknown option "delay" of "line"\ntry: delay_s'),
        ({"burst": {"line": 5}}, 'step 2: unknown option "line" of "burst"\ntry: lines'),
        ({"repeat": 2, "step": [{"lines": ""}]}, 'step 2.1: unknown verb "lines"\ntry: line'),
        ({"line": "x", "text": "y"}, "step 2: one verb is wanted, not 2\ntry: line, text"),
        ({"burst": {"width": 5}}, 'step 2: "burst" needs "lines"'),
        ({"burst": 5}, 'step 2: "burst" wants a table or true, not 5'),
        ({"line": 5}, 'step 2: "line" wants a string, not 5'),
        ({"exit": -1}, 'step 2: "exit" wants a whole number, 0 or more, not -1'),
        ({"hex": "f"}, "step 2: \"hex\" wants hexadecimal digits, not 'f'"),
        ({"bytes_b64": "?"}, "step 2: \"bytes_b64\" wants base64, not '?'"),
        ({"signal": "TREM"}, 'step 2: "signal" wants a signal, as "TERM", not \'TREM\''),
        ({"delay_s": "1"}, "step 2: \"delay_s\" wants a number, 0 or more, not '1'"),
        ({"repeat": 2, "step": "x"}, "\"2.step\" wants a list of steps, not 'x'"),
    ],
)
def test_a_wrong_step_is_named_with_the_nearest_right_word(step: Step, complaint: str) -> None:
    with pytest.raises(ScriptError, match=f"^{re.escape(complaint)}$"):
        compile_steps([{"text": "right"}, step])


def test_nothing_of_a_wrong_script_runs() -> None:
    done = play({"text": "never"}, {"lin": "x"})

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b'error: step 2: unknown verb "lin"\ntry: line\n'


@pytest.mark.parametrize(
    "arguments", [[], ["--json"], ["--jsn", "{}"], ["--json", "{"], ["--json", "[]"], ["gone.toml"]]
)
def test_a_command_line_without_a_script_is_refused(arguments: list[str]) -> None:
    with pytest.raises(ScriptError) as refusal:
        load(arguments)

    assert refusal.value.status == 2


# --- scripts in files ---


def test_the_script_in_the_documentation_runs(tmp_path: Path) -> None:
    manual = subprocess.run([*AGENT, "--help"], capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
    example = manual[manual.index("    [[step]]") : manual.index("\n\nA step has one verb")]
    script = tmp_path / "script.toml"
    script.write_text(example.replace("seconds = 30", "seconds = 0"))
    done = subprocess.run([*AGENT, str(script)], input=b"y\n", capture_output=True, timeout=PATIENCE_S, check=False)

    assert done.returncode == 1
    assert done.stdout == b"Reading src/cart.py\nContinue? [y/N] working\nworking\nworking\nstill here"
    assert done.stderr == b"slow" * 3


def test_a_json_file_is_a_script_and_the_module_can_be_run_by_name(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('{"step": [{"line": "from JSON"}]}')
    by_name = [sys.executable, "-m", "tools.fake_agent", str(script)]
    done = subprocess.run(by_name, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=True)

    assert done.stdout == b"from JSON\n"


def demo_agent() -> list[Step]:
    steps: list[Step] = tomllib.loads((DEMO / "agent.toml").read_text())["step"]
    return steps


def test_the_demo_agent_shows_what_steno_extracts_and_fails() -> None:
    hurried = [{key: value for key, value in step.items() if key != "delay_s"} for step in demo_agent()]
    done = play(*hurried, stdin=b"y\n")
    output = done.stdout.decode()

    assert done.returncode == 1
    assert "Continue? [y/N] " in output
    assert re.search(r"^```python\n(.+\n)+\n(.+\n)+```$", output, re.MULTILINE)
    assert "\x1b[32m" in output
    assert "\r⠋" in output
    assert done.stderr.startswith(b"Traceback (most recent call last):\n")


def test_the_demo_agent_waits_less_than_three_seconds_in_all() -> None:
    waits = [step.get("delay_s", 0) + step.get("spinner", {}).get("seconds", 0) for step in demo_agent()]

    assert 1 < sum(waits) < 2.5


def test_the_endless_demo_prints_until_it_is_killed() -> None:
    with subprocess.Popen([*AGENT, str(DEMO / "endless.toml")], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        numbers = [int(child.stdout.readline()[:8]) for _ in range(5)]
        child.kill()

    assert numbers == [1, 2, 3, 4, 5]
