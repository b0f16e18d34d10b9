"""``steno sessions`` and ``steno show``: the contract's rows, in every form, and how a session is named."""

from __future__ import annotations

import csv
import io
import json
import os
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from eventlog.decisions import start
from eventlog.events import (
    Command,
    CommandOutcome,
    Event,
    Marker,
    Output,
    Resized,
    SessionExited,
    SessionStarted,
    StateChanged,
)
from eventlog.jsonform import rfc3339
from eventlog.store import Store
from server.recorder.lock import RecorderLock
from tests.eventlog.helpers import append
from tests.tools.cli.conftest import Steno
from tools.cli.sessions import FIELDS

S = 1_000_000_000
STARTED_NS = 1_795_342_500_000_000_000  # 2026-11-22T10:15:00Z
# fmt: off
KEYS = [  # CONTRACT.md, section 3
    "session", "agent", "state", "mode", "argv", "cwd", "tags", "started_at", "ended_at", "duration_s", "exit_code",
    "signal", "lines", "bytes", "cols", "rows", "pid", "host", "recorder", "last_output_at", "idle_s",
    "first_position", "last_position", "truncated",
]
# fmt: on
EVIL = "\x1b]0;owned\a\x1b[2J\r\nstate           exited\u202e"


def record(
    home: Path, agent: str, *events: Event, at_ns: int = STARTED_NS, recorder: str = "1-nobody", **started: Any
) -> str:
    """A session of *agent*; each of *events* a second after the one before it."""
    (home / "run").mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"argv": [agent], "cwd": "/home/me", "tags": {}, **started}
    chosen: list[str] = []
    with Store(home / "log") as store:
        event = SessionStarted(agent, facts["argv"], facts["cwd"], "pty", 80, 24, "box", facts["tags"], recorder, "cli")
        store.append([start(event, at_ns, chosen)])
        for number, event_ in enumerate(events, 1):
            append(store, chosen[-1], event_, elapsed_ns=number * S)
    return chosen[-1]


def exited(code: int | None = 0, signal: str | None = None) -> list[Event]:
    state = "killed" if signal else "failed" if code else "exited"
    return [
        SessionExited(code, signal, 3 * S, 1, 6, False, {"user_s": 0.1}),
        StateChanged("running", state, signal or f"exit code {code}"),  # type: ignore[arg-type]
    ]


RUNNING = StateChanged("starting", "running", "started", 4711)


def test_a_row_has_exactly_the_contracts_keys(steno: Steno) -> None:
    record(steno.home, "claude", RUNNING, Output("pty", b"hello\n"), *exited(3), tags={"task": "42"})

    [row] = steno("sessions", "--json").rows
    assert list(row) == KEYS == FIELDS
    assert row == {
        "session": "claude-20261122-101500",
        "agent": "claude",
        "state": "failed",
        "mode": "pty",
        "argv": ["claude"],
        "cwd": "/home/me",
        "tags": {"task": "42"},
        "started_at": "2026-11-22T10:15:00.000000000Z",
        "ended_at": row["ended_at"],
        "duration_s": 3.0,
        "exit_code": 3,
        "signal": None,
        "lines": 1,
        "bytes": 6,
        "cols": 80,
        "rows": 24,
        "pid": 4711,
        "host": "box",
        "recorder": 1,
        "last_output_at": row["last_output_at"],
        "idle_s": None,
        "first_position": 1,
        "last_position": 5,
        "truncated": False,
    }


def test_a_running_sessions_absent_facts_are_null_and_its_idleness_counts(steno: Steno) -> None:
    (steno.home / "run").mkdir(parents=True)
    lock = RecorderLock(steno.home / "run")
    record(steno.home, "claude", RUNNING, at_ns=time.time_ns(), recorder=lock.name)

    [row] = steno("sessions", "--json").rows
    assert row["state"] == "running"
    assert [row[key] for key in ("ended_at", "duration_s", "exit_code", "signal", "last_output_at")] == [None] * 5
    assert 0 <= row["idle_s"] < 30
    assert row["recorder"] == os.getpid()
    lock.release()


def test_newest_come_first_and_filters_combine(steno: Steno) -> None:
    now = time.time_ns()
    record(steno.home, "codex", RUNNING, *exited(), at_ns=now - 7200 * S)
    record(steno.home, "claude", RUNNING, *exited(1), at_ns=now - 3600 * S)
    record(steno.home, "claude-2", RUNNING, *exited(), at_ns=now - 60 * S)

    def agents(*words: str) -> list[str]:
        return [row["agent"] for row in steno("sessions", "--json", *words).rows]

    assert agents() == ["claude-2", "claude", "codex"]
    assert agents("--agent", "claude*") == ["claude-2", "claude"]
    assert agents("--agent", "claude") == ["claude"]
    assert agents("--state", "failed") == ["claude"]
    assert agents("--since", "90m") == ["claude-2", "claude"]
    assert agents("--since", rfc3339(now - 60 * S)) == ["claude-2"]
    assert agents("--limit", "1") == ["claude-2"]
    assert agents("--limit", "0") == []
    assert agents("--agent", "claude*", "--state", "exited", "--limit", "5") == ["claude-2"]


@pytest.mark.parametrize(
    "words", [["--state", "happy"], ["--limit", "-1"], ["--limit", "many"], ["--since", "soon"], ["--jsn"]]
)
def test_words_that_cannot_be_are_refused_with_2(steno: Steno, words: list[str]) -> None:
    done = steno("sessions", *words)

    assert (done.status, done.out) == (2, b"")
    assert done.err.startswith("error: ")


def test_csv_has_the_same_keys_and_is_read_by_any_reader(steno: Steno) -> None:
    record(steno.home, "claude", RUNNING, *exited(), argv=["sh", "-c", 'echo "a, b"\n'], tags={"k": "v"})

    [row] = csv.DictReader(io.StringIO(steno("sessions", "--csv").text))
    assert list(row) == KEYS
    assert json.loads(row["argv"]) == ["sh", "-c", 'echo "a, b"\n']
    assert (json.loads(row["tags"]), row["exit_code"], row["signal"]) == ({"k": "v"}, "0", "")


def test_a_table_tells_how_each_ended(steno: Steno) -> None:
    record(steno.home, "good", RUNNING, Output("pty", b"x\n"), *exited())
    record(steno.home, "bad", RUNNING, *exited(None, "SIGKILL"))

    header, _, bad, good = steno("sessions").text.splitlines()
    assert header.split() == ["SESSION", "STATE", "EXIT", "STARTED", "TOOK", "LINES", "COMMAND"]
    assert bad.split()[:3] == ["bad-20261122-101500", "killed", "SIGKILL"]
    assert good.split()[:3] == ["good-20261122-101500", "exited", "0"]


def test_no_session_is_an_empty_listing(steno: Steno) -> None:
    assert steno("sessions", "--json") == (0, b"", "")
    assert steno("sessions").text.split()[:2] == ["SESSION", "STATE"]
    assert steno("sessions", "--csv").text == ",".join(KEYS) + "\n"


@pytest.mark.parametrize("command", [["sessions"], ["show", "evil"], ["log"], ["log", "--limit", "2"]])
def test_no_control_character_of_recorded_text_reaches_the_terminal(steno: Steno, command: list[str]) -> None:
    record(
        steno.home,
        "evil",
        RUNNING,
        Output("pty", EVIL.encode()),
        Marker(EVIL, EVIL),
        Command("1", EVIL, {EVIL: EVIL}, EVIL),
        CommandOutcome("1", "failed", EVIL),
        StateChanged("running", "killed", EVIL),
        argv=[EVIL],
        cwd=EVIL,
        tags={EVIL: EVIL},
    )

    shown = steno(*command).text
    for line in shown.splitlines():
        assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cf")], line
    assert not [line for line in shown.splitlines() if line.startswith("state           exited")]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_text_that_the_terminals_encoding_lacks_is_escaped(
    steno: Steno, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(steno.home, "claude", RUNNING, Output("pty", "⏺ Read".encode()), *exited(), argv=["⏺"])
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr("sys.stdout", out)

    for command in (["sessions"], ["show", "claude"], ["log"]):
        assert steno(*command).status == 0
    assert b"\\u23fa Read" in out.buffer.getvalue()  # type: ignore[attr-defined]


# -- lost ----------------------------------------------------------------------------------------------------------


def test_a_session_whose_recorder_is_gone_is_lost_at_once_and_for_everyone(steno: Steno) -> None:
    session = record(steno.home, "claude", RUNNING, Output("pty", b"last words"))

    assert [row["state"] for row in steno("sessions", "--json", "--state", "lost").rows] == ["lost"]
    assert steno("sessions", "--json", "--state", "running").rows == []
    [shown] = steno("show", session, "--json").rows
    assert [state["to"] for state in shown["states"]] == ["running", "lost"]
    assert (shown["state"], shown["duration_s"], shown["idle_s"]) == ("lost", 2.0, None)


def test_it_is_called_lost_also_where_the_log_cannot_be_written(steno: Steno, monkeypatch: pytest.MonkeyPatch) -> None:
    record(steno.home, "claude", RUNNING)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "append", full)
    assert [row["state"] for row in steno("sessions", "--json").rows] == ["lost"]
    assert steno("show", "claude", "--json").rows[0]["state"] == "lost"
    assert steno("log", "claude", "--json").rows[-1]["to"] == "running"


# -- show ----------------------------------------------------------------------------------------------------------


def test_show_adds_the_states_and_the_commands(steno: Steno) -> None:
    session = record(
        steno.home,
        "claude",
        RUNNING,
        Resized(100, 30, "me"),
        Command("c1", "kill", {"grace_s": 5}, "me"),
        CommandOutcome("c1", "ok"),
        Command("c2", "pause", {}, "you"),
        *exited(None, "SIGTERM"),
    )

    done = steno("show", session, "--json")
    [row] = done.rows
    assert list(row) == [*KEYS, "states", "commands"]
    assert [list(state) for state in row["states"]] == [["position", "at", "from", "to", "reason"]] * 2
    assert [(s["position"], s["from"], s["to"], s["reason"]) for s in row["states"]] == [
        (2, "starting", "running", "started"),
        (8, "running", "killed", "SIGTERM"),
    ]
    assert [(c["id"], c["verb"], c["requested_by"], c["outcome"]) for c in row["commands"]] == [
        ("c1", "kill", "me", "ok"),
        ("c2", "pause", "you", None),
    ]
    assert (row["cols"], row["rows"]) == (100, 30)


def test_show_tells_people_the_same(steno: Steno) -> None:
    record(steno.home, "claude", RUNNING, Output("pty", b"x\n"), *exited(2), argv=["claude", "--resume"])

    shown = steno("show", "claude").text
    assert "argv            claude --resume\n" in shown
    assert "running → failed  exit code 2" in shown


# -- how a session is named ----------------------------------------------------------------------------------------


@pytest.fixture
def several(steno: Steno) -> Steno:
    """claude three times, the second one still running; and claudette."""
    (steno.home / "run").mkdir(parents=True)
    steno.lock = RecorderLock(steno.home / "run")  # type: ignore[attr-defined]  # alive as long as the test is
    for hour, end in ((0, exited()), (1, []), (2, exited())):
        at_ns = STARTED_NS + hour * 3600 * S
        record(steno.home, "claude", RUNNING, *end, at_ns=at_ns, recorder=steno.lock.name)  # type: ignore[attr-defined]
    record(steno.home, "claudette", RUNNING, *exited())
    return steno


@pytest.mark.parametrize(
    ("name", "session"),
    [
        ("claude-20261122-101500", "claude-20261122-101500"),
        ("claude", "claude-20261122-111500"),  # its latest running
        ("claudette", "claudette-20261122-101500"),
        ("claude-20261122-12", "claude-20261122-121500"),
        ("claudet", "claudette-20261122-101500"),
    ],
)
def test_a_session_is_named_by_id_agent_or_unique_prefix(several: Steno, name: str, session: str) -> None:
    assert several("show", name, "--json").rows[0]["session"] == session
    several.lock.release()  # type: ignore[attr-defined]


def test_of_ended_sessions_an_agents_name_means_the_latest(steno: Steno) -> None:
    for hour in range(3):
        record(steno.home, "claude", RUNNING, *exited(), at_ns=STARTED_NS + hour * 3600 * S)

    assert steno("show", "claude", "--json").rows[0]["session"] == "claude-20261122-121500"


@pytest.mark.parametrize("command", ["show", "log", "replay"])
def test_an_ambiguous_prefix_is_refused_with_those_it_fits(several: Steno, command: str) -> None:
    done = several(command, "claude-2026")

    assert done.status == 1
    assert "is the beginning of 3 sessions: claude-20261122-101500, " in done.err
    assert "try: more of its id" in done.err
    several.lock.release()  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["show", "log", "replay"])
@pytest.mark.parametrize("name", ["nobody", "", "../../x", "claude\x1b[2J", "\udcff"])
def test_an_unknown_session_is_said_to_be_unknown(steno: Steno, command: str, name: str) -> None:
    done = steno(command, name)

    assert (done.status, done.out) == (1, b"")
    assert done.err.startswith("error: no session '")
    assert done.err.endswith("try: steno sessions\n")
    assert "\x1b" not in done.err
