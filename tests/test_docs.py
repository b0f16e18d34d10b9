"""The README is executed: its console blocks run as they stand, and what it lists is what there is.

Numbers, times and paths differ from run to run and are compared by shape; every other character must be the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eventlog.events import NAMES
from server.config import Config
from tools.cli.main import COMMANDS, build_parser, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE)

SHAPES = (
    (r"\b[0-9a-f]{64}\b", "SHA256"),
    (r"\b\d+-[0-9a-f]{8}\b", "RECORDER"),
    (r'("?cwd"?[=:])"?[^",\s]+', r"\1CWD"),
    (r'("?host"?[=:])"?[^",\s]+', r"\1HOST"),
    (r"\d+(\.\d+)?(e-\d+)?", "N"),
    (r"^ +N", "N"),
)


def shape(text: str) -> str:
    for pattern, name in SHAPES:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.rstrip()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which ``steno`` is this tree's, with a home of its own."""
    place = tmp_path_factory.mktemp("readme")
    steno = place / "steno"
    steno.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m tools.cli.main "$@"\n')
    steno.chmod(0o755)
    return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "STENO_HOME": str(place / "home"), "TZ": "UTC"}


def test_the_readme_s_commands_print_what_it_says(shell: dict[str, str], tmp_path: Path) -> None:
    assert BLOCKS, "the README has lost its tour"
    for block in BLOCKS:
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            done = subprocess.run(
                ["bash", "-c", command],
                env=shell,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
            )
            assert shape(done.stdout) == shape(expected), command


def test_every_command_is_described_with_examples_first() -> None:
    for name, (module, _) in COMMANDS.items():
        sub = build_parser(name)._subparsers._group_actions[0].choices[name]  # type: ignore[union-attr,index]
        assert sub.format_help().startswith("examples:\n"), name
        assert load(module).EXAMPLES.count("steno ") >= 1, name
        if name != "completion":
            assert f"`steno {name}" in README, name


def test_every_event_and_setting_is_described() -> None:
    for name in NAMES.values():
        assert name == "unknown" or f"`{name}`" in README, name
    for field, default in zip(Config.__struct_fields__, Config.__struct_defaults__, strict=True):
        assert f"| `{field}` | `STENO_{field.upper()}` | {default} |" in README, field


def test_every_file_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"`((?:tests|tools|eventlog|server|processors)/[\w/.]*)`", README):
        assert (ROOT / path).exists(), path
