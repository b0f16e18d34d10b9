"""What commands print: rows as a table, JSON lines or CSV; errors as ``error:`` and ``try:``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

Row = dict[str, Any]
C1 = re.compile(rb"\x7f|\xc2[\x80-\x9f]")


class CommandError(Exception):
    """What the user asked for cannot be done. *hint*: the command to try instead."""

    status = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CommandError):
    """The call's words are off."""

    status = 2


def unwrapped(error: BaseException) -> BaseException:
    """What happened, without the groups that nurseries put around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def report(error: BaseException) -> int:
    """Print *error* for people; the exit status it means. A bug keeps its traceback."""
    from eventlog.errors import EventLogError
    from server.config import ConfigError

    if isinstance(error, CommandError | EventLogError | ConfigError):
        message, hint = str(error), getattr(error, "hint", None)
    elif isinstance(error, OSError) or type(error).__module__.startswith("lmdb"):
        message, hint = _system_message(error), None
    else:
        raise error
    print_error(message, hint)
    return getattr(error, "status", 1)


def _system_message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def print_error(message: str, hint: str | None = None) -> None:
    red, plain = ("\033[31m", "\033[0m") if colours(sys.stderr) else ("", "")
    print(f"{red}error:{plain} {visible(message)}", file=sys.stderr)
    if hint:
        print(f"try: {visible(hint)}", file=sys.stderr)


def colours(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def visible(text: str) -> str:
    """*text* with control characters made harmless: recorded text may try to speak to this terminal."""
    return "".join(c if c.isprintable() or c in "\n" else repr(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """*text* harmless, and where one line is expected it stays one: a working directory's name may hold a newline."""
    return visible(text).replace("\n", "\\n")


def add_format(parser: argparse.ArgumentParser, *, csv: bool = True) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="JSON lines, one object a line")
    if csv:
        group.add_argument("--csv", action="store_true", help="comma-separated values with a header")


def count(text: str) -> int:
    """For argparse: how many, or a position."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):  # a position is a u64
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 0 or more")
    return int(text)


def print_rows(
    rows: Iterable[Row], args: argparse.Namespace, columns: Mapping[str, Callable[[Row], str]], fields: Sequence[str]
) -> None:
    """Print *rows* as asked: --json whole, --csv with *fields* for a header, else a table of *columns*."""
    if args.json:
        print_json(rows)
    elif args.csv:
        _print_csv(rows, fields)
    else:
        _print_table(rows, columns)


def print_json(rows: Iterable[Row]) -> None:
    import msgspec

    encoder = msgspec.json.Encoder()
    on_terminal = sys.stdout.isatty()

    def write(data: bytearray) -> None:
        # JSON escapes C0; DEL and C1, which some terminals obey as they obey ESC, it does not.
        sys.stdout.buffer.write(C1.sub(lambda c: b"\\u%04x" % ord(c[0].decode()), data) if on_terminal else data)

    buffer = bytearray()
    for row in rows:
        encoder.encode_into(row, buffer, -1)
        buffer += b"\n"
        if len(buffer) > 1 << 16:
            write(buffer)
            buffer.clear()
    write(buffer)
    sys.stdout.flush()


def _print_csv(rows: Iterable[Row], fields: Sequence[str]) -> None:
    import csv

    import msgspec

    encode = msgspec.json.encode
    on_terminal = sys.stdout.isatty()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(fields)
    for row in rows:
        cells = (row.get(field) for field in fields)
        texts = [encode(cell).decode() if isinstance(cell, list | dict | bool) else cell for cell in cells]
        writer.writerow([visible(str(text)) if on_terminal and text is not None else text for text in texts])


def _print_table(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Elsewhere than on a terminal a table is as wide as it needs, so that nothing is cut for grep.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(_cell(one_line(column(row)), Text) for column in columns.values()))
    if sys.stdout.isatty():
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


STYLES = {"running": "green", "paused": "yellow", "failed": "red", "killed": "red", "lost": "red bold"}


def _cell(value: str, text: Any) -> Any:
    return text(value, style=STYLES.get(value, ""))
