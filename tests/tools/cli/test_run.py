"""``steno run``: the child's exit status, the words of the call, and what is left in the log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from eventlog.codec import OutputRun
from eventlog.events import Input
from eventlog.verify import verify
from tests.tools.cli.conftest import Steno
from tools.cli.run import agent_name


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 125", 125),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -INT $$", 130),
        ("kill -40 $$", 168),
    ],
)
@pytest.mark.parametrize("mode", ["pty", "pipe"])
def test_its_exit_status_is_the_childs(steno: Steno, script: str, status: int, mode: str) -> None:
    assert steno("run", "--mode", mode, "--", "sh", "-c", script).status == status


def test_a_command_that_is_not_there_is_127_with_a_clear_line(steno: Steno) -> None:
    done = steno("run", "--", "no-such-program", "x")

    error, session = done.err.splitlines()
    assert (done.status, error) == (127, "error: no-such-program: command not found")
    [row] = steno("sessions", "--json").rows
    assert (row["session"], row["state"], row["exit_code"]) == (session, "failed", None)
    assert steno("show", session, "--json").rows[0]["states"][-1]["reason"] == "no-such-program: command not found"


def test_a_file_that_may_not_be_run_is_126(steno: Steno, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no program")

    done = steno("run", "--", str(tmp_path / "data"))
    assert (done.status, done.err.splitlines()[0]) == (126, f"error: {tmp_path}/data: permission denied")


def test_a_directory_that_is_not_there_is_126(steno: Steno) -> None:
    done = steno("run", "--cwd", "/no/such/place", "--", "true")

    assert (done.status, "cannot enter /no/such/place" in done.err) == (126, True)


# -- what it shows -------------------------------------------------------------------------------------------------


def test_pipes_are_shown_where_they_belong_and_the_id_is_the_last_line_of_stderr(steno: Steno) -> None:
    done = steno("run", "--mode", "pipe", "--", "sh", "-c", "echo out; echo err >&2")

    assert (done.out, done.err.splitlines()[0]) == (b"out\n", "err")
    assert done.err.splitlines()[1:] == [steno("sessions", "--json").rows[0]["session"]]


def test_the_id_is_a_line_of_its_own_after_a_line_without_an_end(steno: Steno) -> None:
    done = steno("run", "--mode", "pipe", "--", "sh", "-c", "printf 'no line end' >&2")

    assert done.err == f"no line end\n{done.session}\n"


def test_a_terminals_output_is_shown_as_the_child_wrote_it(steno: Steno) -> None:
    done = steno("run", "--", "printf", "\\033[1mbold\\033[0m\\n")

    assert done.out == b"\x1b[1mbold\x1b[0m\r\n"
    assert done.err == f"{done.session}\n"


@pytest.mark.parametrize("mode", ["pty", "pipe"])
def test_quiet_shows_nothing_of_the_child(steno: Steno, mode: str) -> None:
    done = steno("run", "--quiet", "--mode", mode, "--", "sh", "-c", "echo out; printf err >&2")

    assert (done.out, done.err) == (b"", f"{done.session}\n")
    assert steno("replay", done.session, "--speed", "max").out.split() == [b"out", *([b"err"] if mode == "pty" else [])]


# -- input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"one\ntwo\n", b"no line end", bytes(range(256)) * 1_000])
def test_stdin_goes_through_a_pipe_byte_for_byte_and_ends(steno: Steno, sent: bytes) -> None:
    done = steno("run", "--mode", "pipe", "--", "cat", stdin=sent)

    assert (done.status, done.out) == (0, sent)


@pytest.mark.parametrize("sent", [b"", b"one\ntwo\n", b"no line end"])
def test_stdin_is_typed_into_a_terminal_and_ends(steno: Steno, sent: bytes) -> None:
    done = steno("run", "--", "sh", "-c", "cat >/dev/null; echo the end", stdin=sent)

    assert done.status == 0
    echoed = sent.replace(b"\n", b"\r\n")
    assert done.out == echoed + b"the end\r\n"


def test_what_was_typed_is_in_the_log(steno: Steno) -> None:
    session = steno.run("--", "cat", stdin=b"hello\n")

    with steno.store() as store:
        typed = [r.event for r in store.records(session=session) if isinstance(r.event, Input)]
    assert [(event.data, event.source, event.masked) for event in typed] == [(b"hello\n", "stdin", False)]


# -- the words of the call -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("claude", "claude"),
        ("/usr/bin/python3.11", "python3.11"),
        ("./my tool!", "my-tool-"),
        ("../../x", "x"),
        (".hidden", "hidden"),
        ("äöü", "agent"),
        ("/", "agent"),
        ("x" * 100, "x" * 64),
    ],
)
def test_an_agent_is_named_after_its_command(command: str, name: str) -> None:
    assert agent_name(command) == name


@pytest.mark.parametrize("name", ["../../x", "", ".x", "-x", "a/b", "a b", "x" * 65, "a\n", "é"])
def test_a_name_that_cannot_be_is_refused_and_nothing_is_recorded(steno: Steno, name: str) -> None:
    done = steno("run", f"--name={name}", "--", "true")

    assert done.status == 2
    assert done.err.startswith("error: ")
    assert "try: --name" in done.err
    assert not steno.home.exists()


def test_everything_after_the_dashes_is_the_command(steno: Steno) -> None:
    done = steno("run", "--mode", "pipe", "--", "printf", "%s|", "--", "-x", "--quiet", "--home", "y")

    assert done.out == b"--|-x|--quiet|--home|y|"


def test_a_command_without_dashes_takes_the_rest_too(steno: Steno) -> None:
    assert steno("run", "--mode", "pipe", "printf", "%s|", "--quiet").out == b"--quiet|"


def test_the_environment_is_ours_and_what_is_set(steno: Steno, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("STENO_TOKEN", "a secret of ours")
    script = 'echo "$INHERITED $SET $EMPTY. ${STENO_TOKEN-none}"'

    done = steno("run", "--mode", "pipe", "--env", "SET=a=b", "--env", "EMPTY=", "--", "sh", "-c", script)
    assert done.out == b"yes a=b . none\n"


def test_directory_size_and_tags_are_the_childs_and_the_sessions(steno: Steno, tmp_path: Path) -> None:
    done = steno(
        *("run", "--name", "me", "--cwd", str(tmp_path), "--cols", "100", "--rows", "30"),
        *("--tag", "task=42", "--tag", "who=me", "--", "sh", "-c", "pwd; stty size"),
    )

    assert done.out.split() == [str(tmp_path).encode(), b"30", b"100"]
    [row] = steno("sessions", "--json").rows
    assert (row["agent"], row["cwd"], row["cols"], row["rows"]) == ("me", str(tmp_path), 100, 30)
    assert row["tags"] == {"task": "42", "who": "me"}


def test_a_size_is_80_by_24_without_a_terminal(steno: Steno) -> None:
    assert steno("run", "--", "stty", "size").out == b"24 80\r\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--cols", "0"],
        ["--cols", "-5"],
        ["--cols", "many"],
        ["--rows", "10001"],
        ["--mode", "telepathy"],
        ["--env", "NOVALUE"],
        ["--env", "=x"],
        ["--tag", "x"],
        ["--unknown"],
        ["--quie"],
    ],
)
def test_words_that_cannot_be_are_refused_with_2_and_a_way_on(steno: Steno, words: list[str]) -> None:
    done = steno("run", *words, "--", "true")

    assert done.status == 2
    assert done.err.splitlines()[0].startswith("error: ")
    assert not steno.home.exists()


@pytest.mark.parametrize("words", [[], ["--"], ["--quiet", "--"]])
def test_no_command_is_refused(steno: Steno, words: list[str]) -> None:
    done = steno("run", *words)

    assert (done.status, done.err) == (2, "error: no command to run\ntry: steno run -- CMD ARG…\n")


def test_words_that_are_not_text_end_nothing(steno: Steno) -> None:
    odd = os.fsdecode(b"caf\xe9")
    done = steno("run", "--mode", "pipe", "--tag", f"k={odd}", "--", "printf", "%s", odd)

    assert (done.status, done.out) == (0, b"caf\xe9")
    assert json.loads(steno("sessions", "--json").out)["tags"] == {"k": "caf\ufffd"}


# -- many ----------------------------------------------------------------------------------------------------------


def test_sessions_of_one_second_have_ids_of_their_own_and_the_log_keeps_its_promises(steno: Steno) -> None:
    sessions = {steno.run("--", "printf", "%s", str(number)) for number in range(8)}

    assert len(sessions) == 8
    assert verify(steno.home / "log") == []
    assert [path.name for path in (steno.home / "run").iterdir()] == ["kernel"]
    with steno.store() as store:
        said = [r.event.reads[0][1] for r in store.records() if isinstance(r.event, OutputRun)]
    assert said == [[str(number).encode()] for number in range(8)]
