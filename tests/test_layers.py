"""Imports go one way: tools -> server.web -> {processors, server.recorder} -> eventlog.

Every import is read with ``ast``, those inside functions and under ``TYPE_CHECKING`` too, and compared with ALLOWED.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("eventlog", "processors", "server", "tools")
OURS = (*SHIPPED, "tests")

# What a part may import beside itself. A module belongs to the longest name here that begins its own.
ALLOWED: dict[str, tuple[str, ...]] = {
    "eventlog": (),
    "processors": ("eventlog",),
    "server": (),  # server/__init__.py, run before every part below; a new file in server/ needs its own line
    "server.config": ("eventlog.events",),
    "server.client": ("eventlog.events",),
    "server.recorder": ("eventlog",),
    "server.web": ("eventlog", "processors", "server.recorder", "server.config"),
    "tools": ("eventlog", "processors", "server"),
}


def test_every_import_goes_one_way() -> None:
    violations = [
        violation
        for top in SHIPPED
        for path in sorted((ROOT / top).rglob("*.py"))
        for violation in violations_in(path.read_text(encoding="utf-8"), path.relative_to(ROOT))
    ]

    assert not violations, "\n".join(["imports against the direction:", *violations])


@pytest.mark.parametrize(
    ("file", "source", "imported"),
    [
        ("eventlog/log.py", "import processors.views", "processors.views"),
        ("eventlog/log.py", "import tests.conftest", "tests.conftest"),
        ("processors/folder.py", "from server.recorder import link", "server.recorder.link"),
        ("processors/__init__.py", "from tools import check", "tools.check"),
        ("server/recorder/host.py", "from processors.rows import Rows", "processors.rows.Rows"),
        ("server/recorder/host.py", "from ..web.rest import ROUTES", "server.web.rest.ROUTES"),
        ("server/recorder/__init__.py", "from .. import web", "server.web"),
        ("server/__init__.py", "from .web import serve", "server.web.serve"),
        ("server/config.py", "from eventlog import open_log", "eventlog.open_log"),
        ("server/client.py", "import eventlog", "eventlog"),
        ("server/client.py", "from server.config import Config", "server.config.Config"),
        ("server/web/app.py", "def late():\n    from tools.cli import main", "tools.cli.main"),
        ("tools/demo.py", "from tests.end_to_end import helpers", "tests.end_to_end.helpers"),
    ],
)
def test_an_import_against_the_direction_is_named_by_file_and_line(file: str, source: str, imported: str) -> None:
    line = source.count("\n") + 2

    [violation] = violations_in(f"import os\n{source}\n", Path(file))

    assert violation.startswith(f"{file}:{line}: ")
    assert violation.split()[-1] == imported


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("eventlog/log.py", "import trio\nfrom . import codec\nfrom .events import Output\nimport eventlog"),
        ("eventlog/log.py", "import toolshed\nimport servers.web"),
        ("processors/folder.py", "from eventlog import open_log"),
        ("server/config.py", "from eventlog.events import Mode\nfrom eventlog import events"),
        ("server/recorder/host.py", "from .session import Session\nfrom eventlog import EventLog"),
        ("server/web/app.py", "from server.recorder import link\nfrom ..config import Config\nimport processors.views"),
        ("tools/cli/main.py", "import server.web.app\nfrom . import run\nfrom tools import check"),
    ],
)
def test_an_import_in_the_direction_is_let_through(file: str, source: str) -> None:
    assert violations_in(source, Path(file)) == []


def violations_in(source: str, path: Path) -> list[str]:
    """Name each import of *source* that ALLOWED does not let stand; *path* is relative to the root."""
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    part = part_of(module)
    return [
        f"{path}:{line}: {part} may not import {imported}"
        for line, imported in imports_in(source, package=".".join(path.parent.parts))
        if any(within(imported, top) for top in OURS)
        and not any(within(imported, allowed) for allowed in ALLOWED[part])
        and part_of(imported) != part
    ]


def part_of(module: str) -> str | None:
    return max((name for name in ALLOWED if within(module, name)), key=len, default=None)


def imports_in(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name, the imported name last: ``from a import b`` is ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def within(module: str, name: str) -> bool:
    return module == name or module.startswith(name + ".")
