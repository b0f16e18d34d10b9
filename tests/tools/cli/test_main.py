"""``steno`` itself: its table of commands, its help, its completion, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.cli.conftest import Steno
from tools.cli.main import COMMANDS, EXAMPLES, VERSION, chosen_command, load

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["sessions"], "sessions"),
        (["--home", "log", "sessions"], "sessions"),
        (["--home=log", "sessions", "--json"], "sessions"),
        (["run", "--", "log"], "run"),
        (["--version"], ""),
        ([], ""),
        (["--home"], ""),
    ],
)
def test_the_command_is_the_first_word_that_is_no_option(argv: list[str], command: str) -> None:
    assert chosen_command(argv) == command


def test_the_version(steno: Steno) -> None:
    assert steno("--version") == (0, f"steno {VERSION}\n".encode(), "")


def test_help_begins_with_examples_and_names_every_command(steno: Steno) -> None:
    shown = steno("--help")

    assert shown.status == 0
    assert shown.text.startswith(EXAMPLES)
    for name, (_, summary) in COMMANDS.items():
        assert f"    {name}" in shown.text
        assert summary in shown.text


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_begins_with_examples_of_it(steno: Steno, command: str) -> None:
    shown = steno(command, "--help")

    assert shown.status == 0
    assert shown.text.startswith(load(COMMANDS[command][0]).EXAMPLES)
    assert f"steno {command}" in shown.text
    assert not steno.home.exists()


@pytest.mark.parametrize("argv", [["sesions"], [], ["--frobnicate"], ["show"], ["completion", "fish"]])
def test_a_call_that_cannot_be_is_2_with_a_way_on(steno: Steno, argv: list[str]) -> None:
    done = steno(*argv)

    assert (done.status, done.out) == (2, b"")
    error, hint = done.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("try: steno")


def test_the_home_is_taken_before_or_after_the_command(steno: Steno, tmp_path: Path) -> None:
    steno("run", "--quiet", "--home", str(tmp_path / "other"), "--", "true")

    assert not steno.home.exists()
    assert len(steno("sessions", "--json", "--home", str(tmp_path / "other")).rows) == 1


def test_an_interrupt_is_130(steno: Steno, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise BaseExceptionGroup("", [KeyboardInterrupt()])

    monkeypatch.setattr("tools.cli.sessions.open_store", interrupted)
    assert steno("sessions") == (130, b"", "")


@pytest.mark.parametrize(
    ("command", "never"),
    [
        ("--version", {"trio", "lmdb", "msgspec", "rich", "eventlog", "platformdirs", "xxhash"}),
        ("sessions --json", {"trio", "rich"}),
        ("log --json", {"trio", "rich"}),
        ("run --quiet -- true", {"rich", "platformdirs"}),
    ],
)
def test_a_call_imports_only_what_it_needs(tmp_path: Path, command: str, never: set[str]) -> None:
    """Where the time of a short call goes."""
    code = (
        "import sys; from tools.cli.main import main\n"
        f"try: main({command.split()!r})\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    environment = {**os.environ, "STENO_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True
    )

    assert never & set(done.stderr.split()) == set()


# -- completion ----------------------------------------------------------------------------------------------------


def test_bash_sources_its_completion_and_completes_commands_and_flags(steno: Steno, tmp_path: Path) -> None:
    (tmp_path / "steno.bash").write_bytes(steno("completion", "bash").out)
    script = """
        set -e
        source "$1"
        complete -p steno
        function=$(complete -p steno | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        complete_() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            $function steno "${@: -1}" || :
            echo "${COMPREPLY[@]}"
        }
        complete_ steno ver
        complete_ steno replay --sp
        complete_ steno run --mo
        complete_ steno completion ''
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", str(tmp_path / "steno.bash")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == ["verify", "--speed", "--mode", "bash zsh tcsh"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_too(steno: Steno, shell: str) -> None:
    assert b"steno" in steno("completion", shell).out
