"""``steno``: the table of commands. A command's module is imported only when it is called.

``steno --version`` needs neither trio nor lmdb; each command builds its own arguments and runs.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from tools.cli.output import UsageError, report, unwrapped

VERSION = "0.1.0"

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("tools.cli.run", "record a program and show it"),
    "sessions": ("tools.cli.sessions", "list sessions, newest first"),
    "show": ("tools.cli.show", "one session in detail, with its state history"),
    "log": ("tools.cli.log", "the events themselves, as they were or as they come"),
    "replay": ("tools.cli.replay", "play a session with its timing, or dump its bytes"),
    "export": ("tools.cli.export", "write a session as asciicast, text or bytes"),
    "import": ("tools.cli.import_", "make sessions of asciicast recordings"),
    "verify": ("tools.cli.verify", "check every stored record"),
    "backup": ("tools.cli.backup", "copy the log, consistently, while it is written"),
    "prune": ("tools.cli.prune", "delete the oldest segments of the log"),
    "completion": ("tools.cli.completion", "print a shell's completion script"),
}

EXAMPLES = """\
examples:
  steno run -- claude                      record an agent on a terminal and show it
  steno run --mode pipe -- make -k test    keep stdout and stderr apart
  steno sessions                           what has been recorded
  steno replay claude --speed 8            watch its latest session at eight times the speed
  steno log --follow --json                every event of every agent as it happens
"""


class Command(Protocol):
    """What a command's module offers."""

    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """Examples first, then usage; errors in the form that all of steno's errors have."""

    def __init__(self, *, examples: str = "", **kwargs: object) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **kwargs,  # type: ignore[arg-type]
        )
        self.examples = examples

    def format_help(self) -> str:
        return f"{self.examples}\n{super().format_help()}" if self.examples else super().format_help()

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, f"{self.prog} --help")


def build_parser(wanted: str | None) -> Parser:
    """The parser with the arguments of command *wanted* alone; of all where it is None."""
    parser = Parser(
        examples=EXAMPLES, prog="steno", description="The flight recorder for command-line agents.", epilog=None
    )
    parser.add_argument("--version", action="version", version=f"steno {VERSION}")
    parser.add_argument("--home", metavar="DIR", help="where the log lives (default: $STENO_HOME, else user data)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, required=True)
    for name, (module, summary) in COMMANDS.items():
        if wanted not in (None, name):
            commands.add_parser(name, help=summary, add_help=False)
            continue
        command = load(module)
        sub = commands.add_parser(name, help=summary, description=summary, examples=command.EXAMPLES)
        sub.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.add_arguments(sub)
    return parser


def load(module: str) -> Command:
    return cast("Command", importlib.import_module(module))


def chosen_command(argv: Sequence[str]) -> str:
    """The command's name in *argv*, or '' where there is none."""
    skip = False
    for argument in argv:
        if skip or argument.startswith("-"):
            skip = argument == "--home"
            continue
        return argument
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 ok, 1 failed, 2 usage, 130 interrupted."""
    _stand_on_descriptors()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = chosen_command(arguments)
    try:
        args = build_parser(name).parse_args(arguments)
        status = load(COMMANDS[name][0]).run(args)
        sys.stdout.flush()
        return status
    except (BrokenPipeError, KeyboardInterrupt, Exception, BaseExceptionGroup) as error:
        return _ended_by(unwrapped(error))


def _stand_on_descriptors() -> None:
    """Where 0, 1 or 2 came closed (``>&-``) put /dev/null: the next file opened, the log perhaps, would be printed to.

    And what a terminal's encoding cannot show is escaped, so that recorded text ends no listing.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115  # None: closed when Python began
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _ended_by(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):
        # Whoever read our stdout has gone, as `| head` does: that is no error of anybody's.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return report(error)


if __name__ == "__main__":
    sys.exit(main())
