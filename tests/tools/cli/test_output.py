"""What commands print: the three forms of a listing, and errors."""

from __future__ import annotations

import argparse
import csv
import io
import json
import unicodedata
from collections.abc import Callable
from typing import Any

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.errors import EventDecodeError, UnknownSessionError
from server.config import ConfigError
from tools.cli.output import (
    CommandError,
    Row,
    UsageError,
    add_format,
    colours,
    count,
    one_line,
    print_error,
    print_rows,
    report,
    unwrapped,
    visible,
)

ROWS: list[Row] = [
    {"name": "one", "tags": {"a": "b"}, "argv": ["x", "y"], "gone": None, "whole": True, "text": "plain"},
    {"name": "two", "tags": {}, "argv": [], "gone": 3, "whole": False, "text": 'a "quoted", line\nand ⏺ more'},
]
COLUMNS: dict[str, Callable[[Row], str]] = {"NAME": lambda row: row["name"], "TEXT": lambda row: row["text"]}


def printed(capsys: pytest.CaptureFixture[str], *flags: str, rows: list[Row] = ROWS) -> str:
    parser = argparse.ArgumentParser()
    add_format(parser)
    print_rows(rows, parser.parse_args(flags), COLUMNS, list(ROWS[0]))
    return capsys.readouterr().out


def test_json_is_an_object_a_line_with_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert [json.loads(line) for line in printed(capsys, "--json").splitlines()] == ROWS


def test_many_rows_of_json_are_all_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"number": number, "text": "x" * 500} for number in range(1_000)]

    assert [json.loads(line) for line in printed(capsys, "--json", rows=rows).splitlines()] == rows


def test_csv_has_a_header_and_what_is_no_text_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    [one, two] = csv.DictReader(io.StringIO(printed(capsys, "--csv")))

    assert one == {
        "name": "one",
        "tags": '{"a":"b"}',
        "argv": '["x","y"]',
        "gone": "",
        "whole": "true",
        "text": "plain",
    }
    assert two["text"] == ROWS[1]["text"]


def test_a_table_has_a_line_a_row_and_is_as_wide_as_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROWS[0] | {"text": "x" * 300}, ROWS[1]]
    header, _, one, two = printed(capsys, rows=rows).splitlines()

    assert header.split() == ["NAME", "TEXT"]
    assert one.split() == ["one", "x" * 300]
    assert two.split(maxsplit=1) == ["two", 'a "quoted", line\\nand ⏺ more']


def test_an_empty_listing_is_a_header_or_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--json", rows=[]) == ""
    assert printed(capsys, "--csv", rows=[]) == "name,tags,argv,gone,whole,text\n"
    assert printed(capsys, rows=[]).split()[:2] == ["NAME", "TEXT"]


def test_both_forms_at_once_are_refused() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_format(parser)
    with pytest.raises(argparse.ArgumentError, match="not allowed with"):
        parser.parse_args(["--json", "--csv"])


@given(st.text())
def test_recorded_text_cannot_speak_to_this_terminal(text: str) -> None:
    shown = one_line(text)

    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in shown)
    assert "\n" not in shown
    assert visible(text).count("\n") == text.count("\n")


def test_text_without_control_characters_stays_as_it_is() -> None:
    assert one_line("⏺ Read(src/cart.py) – été 你好") == "⏺ Read(src/cart.py) – été 你好"
    assert one_line("\x1b]0;owned\a") == "\\x1b]0;owned\\x07"
    assert one_line("\u202etxt") == "\\u202etxt"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "coloured"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_and_never_with_no_color(
    stream: io.StringIO, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert colours(stream) == coloured


def test_an_error_is_coloured_on_a_terminal_and_its_hint_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Terminal())
    import sys

    print_error("it broke\x1b[2J", "steno mend")
    assert sys.stderr.getvalue() == "\x1b[31merror:\x1b[0m it broke\\x1b[2J\ntry: steno mend\n"  # type: ignore[attr-defined]


def hinted(error: Exception, hint: str) -> Exception:
    error.hint = hint  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (CommandError("no"), 1, "error: no\n"),
        (UsageError("what?", "this"), 2, "error: what?\ntry: this\n"),
        (UnknownSessionError("x"), 1, "error: no session 'x'\ntry: steno sessions\n"),
        (EventDecodeError(7, "torn"), 1, "error: position 7: torn\ntry: steno verify names every damaged record\n"),
        (hinted(ConfigError("bad"), "good"), 1, "error: bad\ntry: good\n"),
        (PermissionError(13, "Permission denied", "/srv/x"), 1, "error: /srv/x: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (lmdb.DiskError("full"), 1, "error: full\n"),
    ],
)
def test_an_error_is_told_in_one_form(
    error: Exception, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error) == status
    assert capsys.readouterr().err == said


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        report(ZeroDivisionError())


def test_what_nurseries_wrap_is_unwrapped() -> None:
    inner = CommandError("no")

    assert unwrapped(ExceptionGroup("", [ExceptionGroup("", [inner])])) is inner
    assert unwrapped(BaseExceptionGroup("", [KeyboardInterrupt()])).__class__ is KeyboardInterrupt
    several = ExceptionGroup("", [inner, ValueError()])
    assert unwrapped(several) is several


@pytest.mark.parametrize("text", ["-1", "", "x", "1.5", "٣", "1" * 19, "+1", " 1"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number"):
        count(text)


@given(st.integers(0, 10**18 - 1))
def test_a_count_is_a_whole_number(number: int) -> None:
    assert count(str(number)) == number


def test_rows_are_any_iterable(capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Any:
        yield from ROWS

    assert len(printed(capsys, "--json", rows=rows()).splitlines()) == 2
