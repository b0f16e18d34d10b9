"""``steno`` on a terminal: transparent while a program runs, and the terminal as it was on every way out."""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventlog.events import Input, Resized
from tests.end_to_end.helpers import COMMAND, Steno, Terminal, agent, terminal, wait_until

# Between two looks at the terminal's modes: equal means restored. bash holds the terminal, so they outlive steno.
BETWEEN = 'before=$(stty -g); {}; status=$?; [ "$before" = "$(stty -g)" ] && echo "restored, $status" || stty -a'
RAW = "import tty, os; tty.setraw(0); os.write(1, b'raw.'); k = os.read(0, 9); os.write(1, repr(k).encode() + b'.')"


@pytest.fixture
def steno(tmp_path: Path) -> Iterator[Steno]:
    with Steno(tmp_path / "home") as steno:
        yield steno


def steno_process(steno: Steno) -> int:
    """The pid of the recorder of the session that runs."""
    wait_until(lambda: steno.session().state == "running", "it runs")
    return int(steno.session().recorder.split("-")[0])


def typed(steno: Steno) -> list[Input]:
    return [e.event for e in steno.events() if isinstance(e.event, Input)]


# -- run -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("sh -c 'stty raw -echo; echo hi'", 0),
        ("sh -c 'echo hi; exit 3'", 3),
        ("sh -c 'echo hi; kill -SEGV $$'", 139),
        ("no-such-program-hi", 127),
    ],
    ids=["a normal exit", "a failure", "a crash", "no such program"],
)
def test_the_terminal_is_as_it_was_when_the_child_has_ended(steno: Steno, command: str, status: int) -> None:
    with terminal(steno, BETWEEN.format(f"steno run -- {command}")) as at:
        shown = at.see(b"restored, %d\r\n" % status)

    assert b"hi" in shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_terminal_is_as_it_was_after_a_signal_to_steno(steno: Steno, number: signal.Signals) -> None:
    quietly = "ulimit -c 0; "  # QUIT would leave a core
    with terminal(steno, quietly + BETWEEN.format("steno run -- sh -c 'echo ready; exec sleep 60'")) as at:
        at.see(b"ready")
        assert at.is_raw()
        os.kill(steno_process(steno), number)
        at.see(b"restored, %d\r\n" % (128 + number))

    assert steno.session().state == "killed"


def test_every_key_reaches_a_program_that_takes_them_raw(steno: Steno) -> None:
    """Ctrl-C and Ctrl-Z too: they are the child's, not steno's."""
    for key in (b"\x03", b"\x1a", b"\x1c", b"\x04", b"\x1b[A", b"\r"):
        with terminal(steno, f'steno run -- {sys.executable} -S -c "{RAW}"') as at:
            at.see(b"raw.")
            at.type(key)
            at.see(repr(key).encode() + b".")
            at.see(steno.ended().session.encode())

        assert steno.session().state == "exited"
        assert [event.data for event in typed(steno)][-1] == key


def test_ctrl_c_at_a_canonical_program_interrupts_it_and_not_steno(steno: Steno) -> None:
    with terminal(steno, "steno run -- sh -c 'echo ready; exec sleep 60'; echo status $?") as at:
        at.see(b"ready")
        wait_until(at.is_raw, "our terminal is raw")
        at.type(b"\x03")
        at.see(b"status 130")

    assert (steno.session().state, steno.session().signal) == ("killed", "SIGINT")


def test_ctrl_d_at_the_end_of_a_line_is_the_end_of_input(steno: Steno) -> None:
    with terminal(steno, "steno run -- cat; echo status $?") as at:
        wait_until(at.is_raw, "our terminal is raw")
        at.type(b"hello\r")
        at.see(b"hello\r\nhello\r\n")
        at.type(b"\x04")
        at.see(b"status 0")


def test_a_password_is_neither_shown_nor_recorded_and_a_shells_keys_are(steno: Steno) -> None:
    ask = "import getpass; print('length', len(getpass.getpass('Password: ')))"
    with terminal(
        steno, f"steno run -- {sys.executable} -c \"{ask}\"; steno run --env PS1='ready> ' -- bash --norc; echo done"
    ) as at:
        at.see(b"Password: ")
        at.type(b"hunter2\r")
        shown = at.see(b"length 7\r\n")
        at.see(b"ready> ")
        at.type(b"exit 4\r")
        shown += at.see(b"done")

    assert b"hunter2" not in shown
    [secret, *keys] = typed(steno)
    assert (secret.data, secret.masked, secret.length) == (None, True, 8)
    assert b"".join(key.data or b"" for key in keys) == b"exit 4\r"
    assert not any(b"hunter2" in path.read_bytes() for path in (steno.home / "log").rglob("data.mdb"))


def test_the_childs_terminal_has_our_size_and_follows_it(steno: Steno) -> None:
    script = 'trap "stty size; exit" WINCH; stty size; while :; do sleep 0.02; done'
    with terminal(steno, f"steno run -- sh -c '{script}'") as at:
        at.see(b"24 80\r\n")
        at.resize(100, 30)
        at.see(b"30 100\r\n")
        steno.ended()

    assert [e.event for e in steno.events() if isinstance(e.event, Resized)] == [Resized(100, 30, "terminal")]
    assert (steno.session().cols, steno.session().rows) == (100, 30)


def test_a_terminal_that_goes_away_ends_the_showing_and_not_the_session(steno: Steno) -> None:
    steps = [{"line": "ready"}, {"line": "after", "delay_s": 0.8}]
    with terminal(steno, "exec " + shlex.join([*COMMAND, "run", "--", *agent(*steps)])) as at:
        at.see(b"ready")
        at.hang_up()
        row = steno.ended()

    assert row.state == "exited"
    assert steno.output().endswith(b"after\r\n")
    steno.verified()


def test_an_editor_is_itself(steno: Steno, tmp_path: Path) -> None:
    file = tmp_path / "written"
    with terminal(steno, BETWEEN.format(f"steno run -- vim -u NONE -n {file}")) as at:
        at.see(b"~")
        at.type(b"ihello from vim\x1b:wq\r")
        at.see(b"restored, 0")

    assert file.read_text() == "hello from vim\n"
    assert steno.session().state == "exited"
    steno.verified()


def test_the_id_is_the_last_line_on_a_terminal_too(steno: Steno) -> None:
    with terminal(steno, "steno run -- printf 'no line end'; echo next") as at:
        shown = at.see(b"next")

    assert shown.split(b"\r\n") == [b"no line end", steno.session().session.encode(), b"next"]


# -- replay --------------------------------------------------------------------------------------------------------


@pytest.fixture
def seconds(steno: Steno) -> Steno:
    """A session that counts to five, a quarter of a second each."""
    steps = [{"text": f"[{number}]", "delay_s": 0.25} for number in range(6)]
    assert steno("run", "--quiet", "--name", "count", "--", *agent(*steps)).status == 0
    return steno


def quiet_for(at: Terminal, seconds_: float) -> bool:
    """Whether nothing is shown for so long."""
    return not select.select([at.fd], [], [], seconds_)[0]


def test_space_holds_a_replay_and_lets_it_go(seconds: Steno) -> None:
    with terminal(seconds, BETWEEN.format("steno replay count")) as at:
        at.see(b"[1]")
        at.type(b" ")
        held = quiet_for(at, 0.6) or quiet_for(at, 0.6)  # what was under way may still come
        at.type(b" ")
        at.see(b"[5]")
        at.see(b"restored, 0")

    assert held


def test_q_ends_a_replay_and_the_terminal_is_as_it_was(seconds: Steno) -> None:
    with terminal(seconds, BETWEEN.format("steno replay count --speed 0.1")) as at:
        wait_until(lambda: at.is_raw() and not at.echoes(), "keys are read one by one")
        at.type(b"q")
        assert b"[5]" not in at.see(b"restored, 0")


def test_ctrl_c_ends_a_replay_and_the_terminal_is_as_it_was(seconds: Steno) -> None:
    with terminal(seconds, BETWEEN.format("steno replay count --speed 0.1")) as at:
        wait_until(lambda: at.is_raw() and not at.echoes(), "keys are read one by one")
        at.type(b"\x03")
        at.see(b"restored, 130")


def test_steps_speed_and_seeks_by_key(seconds: Steno) -> None:
    """At a tenth of the speed a moment takes 2.5 s: what is seen at once was asked for."""
    with terminal(seconds, BETWEEN.format("steno replay count --speed 0.1")) as at:
        wait_until(lambda: at.is_raw() and not at.echoes(), "keys are read one by one")
        at.type(b".")
        at.see(b"[0]")
        at.type(b".")
        at.see(b"[1]")
        at.type(b"\x1b[D")  # back to the beginning: the screen is cleared
        at.see(b"\033c")
        at.type(b"\x1b[C")  # five seconds on is past the end
        at.see(b"[0]")
        at.see(b"[5]")
        at.type(b" ")
        at.see(b"restored, 0")


def test_what_the_terminal_answers_is_no_key(seconds: Steno) -> None:
    """Recorded output may ask it for its version; the answer arrives among the keys, with a q in it."""
    with terminal(seconds, BETWEEN.format("steno replay count")) as at:
        wait_until(lambda: at.is_raw() and not at.echoes(), "keys are read one by one")
        at.type(b"\x1bP>|XTerm q (. +)\x1b\\\x1b[?62;22c\x1b]11;rgb:1e1e/ q\a")
        at.see(b"[5]")
        at.see(b"restored, 0")


def test_a_table_on_a_terminal_is_coloured_unless_no_color_says_otherwise(seconds: Steno) -> None:
    script = "steno sessions; echo one; NO_COLOR=1 steno sessions; echo two; steno log --limit 1; echo three"
    with terminal(seconds, script) as at:
        assert b"\x1b[" in at.see(b"one\r\n")
        assert b"\x1b[3" not in at.see(b"two\r\n")
        assert b"\x1b[2m" in at.see(b"three\r\n")
