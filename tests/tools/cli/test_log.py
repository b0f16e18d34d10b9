"""``steno log``: events as JSON lines, as CSV and for people; which of them, and up to where."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from eventlog.events import NAMES, Input, Marker, Output, RulesChanged, Unknown
from eventlog.store import Store
from tests.eventlog.helpers import append, stored_array
from tests.tools.cli.conftest import Steno
from tests.tools.cli.test_sessions import RUNNING, exited, record
from tools.cli.log import KINDS


@pytest.fixture
def two(steno: Steno) -> Steno:
    """claude: positions 1 to 12; codex: 13 to 16."""
    lines = [Output("pty", b"line %d\n" % number) for number in range(8)]
    record(steno.home, "claude", RUNNING, *lines, *exited())
    record(steno.home, "codex", RUNNING, *exited())
    return steno


def positions(steno: Steno, *words: str) -> list[int]:
    done = steno("log", "--json", *words)
    assert done.status == 0, done.err
    return [row["position"] for row in done.rows]


def test_all_of_it_in_order(two: Steno) -> None:
    assert positions(two) == list(range(1, 17))


def test_of_one_session(two: Steno) -> None:
    assert positions(two, "claude") == list(range(1, 13))
    assert positions(two, "codex") == [13, 14, 15, 16]


def test_a_limit_alone_means_the_last(two: Steno) -> None:
    assert positions(two, "--limit", "3") == [14, 15, 16]
    assert positions(two, "claude", "--limit", "2") == [11, 12]
    assert positions(two, "--kind", "output", "--limit", "2") == [9, 10]
    assert positions(two, "--limit", "1000") == list(range(1, 17))
    assert positions(two, "--limit", "0") == []


def test_a_limit_after_a_position_means_the_first(two: Steno) -> None:
    assert positions(two, "--after", "4", "--limit", "3") == [5, 6, 7]
    assert positions(two, "--after", "0", "--limit", "2") == [1, 2]
    assert positions(two, "codex", "--after", "3", "--limit", "2") == [13, 14]
    assert positions(two, "--after", "16") == []
    assert positions(two, "--after", "999999999999999999") == []


def test_kinds_are_chosen_by_name(two: Steno) -> None:
    assert positions(two, "--kind", "session_started") == [1, 13]
    assert positions(two, "--kind", "state_changed", "--kind", "session_exited", "claude") == [2, 11, 12]
    assert positions(two, "--kind", "gap") == []


def test_every_kind_the_contract_names_can_be_chosen() -> None:
    assert set(KINDS) == {name for kind, name in NAMES.items() if kind is not Unknown}


@pytest.mark.parametrize(
    "words",
    [["--limit", "-1"], ["--after", "-3"], ["--after", "x"], ["--kind", "noise"], ["--csv", "--follow"], ["a", "b"]],
)
def test_words_that_cannot_be_are_refused_with_2(steno: Steno, words: list[str]) -> None:
    done = steno("log", *words)

    assert (done.status, done.out) == (2, b"")
    assert done.err.startswith("error: ")


# -- the form of an event ------------------------------------------------------------------------------------------

COMMON = ["position", "session", "agent", "at", "elapsed_s", "type"]


def form(steno: Steno, *events: Output | Input | Marker) -> list[dict[str, object]]:
    record(steno.home, "claude", *events)
    return [{key: row[key] for key in row if key not in COMMON} for row in steno("log", "--json").rows[1:-1]]


def test_an_event_has_its_place_its_times_and_its_own_fields(two: Steno) -> None:
    third = two("log", "--json", "--after", "2", "--limit", "1").rows[0]

    assert list(third) == [*COMMON, "stream", "text"]
    assert third == {
        "position": 3,
        "session": "claude-20261122-101500",
        "agent": "claude",
        "at": "2026-11-22T10:15:02.000000000Z" if third["elapsed_s"] == 2.0 else third["at"],
        "elapsed_s": 2.0,
        "type": "output",
        "stream": "pty",
        "text": "line 0\n",
    }


def test_bytes_are_text_where_they_are_utf_8_and_else_base64(steno: Steno) -> None:
    assert form(steno, Output("stdout", "⏺\x1b[1m\0".encode()), Output("stderr", b"\xff\xfe")) == [
        {"stream": "stdout", "text": "⏺\x1b[1m\0"},
        {"stream": "stderr", "data_b64": "//4="},
    ]


def test_masked_input_is_its_length(steno: Steno) -> None:
    assert form(steno, Input(b"y\n", 2, False, "terminal"), Input(None, 8, True, "terminal")) == [
        {"text": "y\n", "length": 2, "masked": False, "source": "terminal"},
        {"text": None, "length": 8, "masked": True, "source": "terminal"},
    ]


def test_what_belongs_to_no_session_says_so(steno: Steno) -> None:
    with Store(steno.home / "log") as store:
        append(store, None, RulesChanged("d1", "version = 1\n"))

    [row] = steno("log", "--json").rows
    assert (row["session"], row["agent"], row["type"], row["digest"]) == (None, None, "rules_changed", "d1")
    assert steno("log").text.split()[2:4] == ["-", "rules_changed"]


def test_an_event_of_a_newer_program_is_shown_as_unknown(steno: Steno) -> None:
    with Store(steno.home / "log") as store:
        store.append([[stored_array([1, 99, None, 5, 5, [99, "new"]])]])

    [row] = steno("log", "--json").rows
    assert (row["type"], row["event_type"]) == ("unknown", 99)


def test_csv_is_read_by_any_reader(two: Steno) -> None:
    rows = list(csv.DictReader(io.StringIO(two("log", "--csv", "claude").text)))

    assert [row["position"] for row in rows] == [str(number) for number in range(1, 13)]
    assert rows[2]["text"] == "line 0\n"
    assert rows[-1]["to"] == "exited"


def test_people_get_a_line_an_event_without_colour_where_it_is_no_terminal(two: Steno) -> None:
    shown = two("log").text.splitlines()

    assert len(shown) == 16
    assert shown[2].split(maxsplit=4)[2:] == ["claude-20261122-101500", "output", "line 0\\n"]
    assert "\x1b" not in "".join(shown)


def test_many_events_are_all_printed(steno: Steno) -> None:
    steno.run("--", "seq", "50000")

    rows = steno("log", "--json", "--kind", "output").rows
    assert "".join(row["text"] for row in rows) == "".join(f"{number}\n" for number in range(1, 50_001))


# -- damage --------------------------------------------------------------------------------------------------------


def damage(home: Path, needle: bytes) -> None:
    """Change one byte of a recorded line, behind LMDB's back."""
    [path] = (home / "log").glob("*/data.mdb")
    data = bytearray(path.read_bytes())
    data[data.index(needle)] ^= 1
    path.write_bytes(data)


def test_a_damaged_log_is_printed_up_to_the_damage_and_then_says_so(steno: Steno) -> None:
    steno.run("--name", "seq", "--", "seq", "-f", "line %g of many words", "20000")
    damage(steno.home, b"line 10000 of")

    for command in (["log", "seq", "--json"], ["log", "--json"], ["log"], ["replay", "seq", "--speed", "max"]):
        done = steno(*command)
        assert done.status == 1, command
        assert b"line 1 of" in done.out
        assert b"line 5000 of" in done.out
        assert b"line 10000 of" not in done.out
        assert b"line 19999 of" not in done.out
        error, hint = done.err.splitlines()
        assert error.startswith("error: position ")
        assert hint == "try: steno verify names every damaged record"
    assert steno("verify").status == 1


def test_a_cut_off_log_is_read_as_far_as_it_goes_also_with_a_session_that_is_lost(steno: Steno) -> None:
    """That it is lost cannot be appended any more, which is no reason to show nothing."""
    record(steno.home, "claude", RUNNING)
    steno.run("--name", "seq", "--", "seq", "-f", "line %g of many words", "20000")
    [path] = (steno.home / "log").glob("*/data.mdb")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)

    done = steno("log", "--json")
    assert done.rows[0]["type"] == "session_started"
    assert (done.status, done.err.splitlines()[0].startswith("error: ")) == (1, True)
    states = {row["agent"]: row["state"] for row in steno("sessions", "--json").rows}
    assert states["claude"] == "lost"
    assert steno("verify").status == 1
