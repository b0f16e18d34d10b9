"""``steno export`` and ``steno import``: files in and out, and every recording of the corpus there and back."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import lmdb
import pytest

import tools.cli.export
import tools.cli.import_
from eventlog.codec import OutputRun, Record, output_record
from eventlog.events import Gap, Input, SessionExited, SessionStarted, StateChanged
from eventlog.store import Store, Stored
from eventlog.verify import verify
from tests.tools.cli.conftest import Steno
from tools.cli.import_ import agent_name

CORPUS = Path(__file__).parents[4] / "shared" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus in {CORPUS}")
ASCIINEMA = shutil.which("asciinema", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")

V2 = '{"version": 2, "width": 80, "height": 24, "timestamp": 1700000000}\n'
BEGAN_NS = 1_795_342_500_000_000_000


def cast(path: Path, *events: str, header: str = V2) -> Path:
    path.write_text(header + "".join(f"{event}\n" for event in events))
    return path


def positions(steno: Steno) -> tuple[int, list[str]]:
    with steno.store() as store:
        return store.head(), [row.session for row in store.sessions()]


def holds(steno: Steno) -> bool:
    """Whether every promise of the log holds."""
    return verify(steno.home / "log") == []


@pytest.fixture
def recorded(steno: Steno) -> str:
    """A session of two streams, with what a cast cannot say."""
    steno("sessions")
    lines = [
        output_record("", BEGAN_NS, "stdout", [(10**9, [b"\x1b[31mone\x1b[0m\n", b"50%\r100%\n", b"wait"])]),
        output_record("", BEGAN_NS, "stderr", [(2 * 10**9, [BYTES[1]])]),
        output_record("", BEGAN_NS, "stdout", [(3 * 10**9, [b"ed\n", b"end"])]),
    ]
    rest: list[Any] = [
        Input(None, 6, True, "terminal"),
        Gap("stdout", 17, "a reason"),
        SessionExited(0, None, 4 * 10**9, 4, sum(map(len, BYTES)), False, {}),
        StateChanged("running", "exited", "exit code 0"),
    ]
    started = SessionStarted("demo", ["demo"], "/", "pipe", 80, 24, "host", {}, "1-a", "cli")
    running = StateChanged("starting", "running", "started", 1)
    with steno.store() as store:
        records = [Record("", BEGAN_NS, 0, event) for event in (started, running)]
        records += lines
        records += [Record("", BEGAN_NS + 4 * 10**9, 4 * 10**9, event) for event in rest]
        for record in records:
            record.session = "demo-20261122-101500"
        store.append([[Stored(record) for record in records]])
    return "demo"


BYTES = [b"\x1b[31mone\x1b[0m\n50%\r100%\nwait", b"b\xb3\xb1d \xff\n", b"ed\nend"]


# -- export --------------------------------------------------------------------------------------------------------


def test_raw_is_every_byte_of_all_streams(steno: Steno, recorded: str) -> None:
    done = steno("export", recorded, "--format", "raw")

    assert (done.status, done.out) == (0, b"".join(BYTES))
    assert done.err == "warning: demo-20261122-101500: 17 bytes of output were never recorded\n"


def test_text_is_the_rows_each_stream_s_own(steno: Steno, recorded: str) -> None:
    done = steno("export", recorded, "--format", "text")

    assert done.out.decode() == "one\n100%\nb��d �\nwaited\nend\n"


def test_asciicast_is_version_3_and_says_what_it_leaves_out(steno: Steno, recorded: str) -> None:
    done = steno("export", recorded, "--format", "asciicast")

    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"version": 3, "term": {"cols": 80, "rows": 24}, "timestamp": BEGAN_NS // 10**9, "command": "demo"},
        [1, "o", "\x1b[31mone\x1b[0m\n50%\r100%\nwait"],
        [1, "o", "b��d �\n"],
        [1, "o", "ed\nend"],
        [1, "x", "0"],
    ]
    assert done.err.splitlines() == [
        "warning: demo-20261122-101500: 3 invalid UTF-8 sequences were written as U+FFFD",
        "warning: demo-20261122-101500: 1 masked input was left out",
        "warning: demo-20261122-101500: 17 bytes of output were never recorded",
    ]
    assert json.loads(
        steno("export", recorded, "--format", "asciicast", "--cast-version", "2").out.splitlines()[0]
    ) == {
        "version": 2,
        "width": 80,
        "height": 24,
        "timestamp": BEGAN_NS // 10**9,
        "duration": 4.0,
        "command": "demo",
    }


def test_a_running_session_is_exported_as_far_as_it_is(steno: Steno) -> None:
    steno("sessions")
    started = SessionStarted("live", ["live"], "/", "pty", 80, 24, "host", {}, "1-a", "cli")
    records = [
        Record("live-1", BEGAN_NS, 0, started),
        output_record("live-1", BEGAN_NS, "pty", [(10**9, [b"prompt> "])]),
    ]
    with steno.store() as store:
        store.append([[Stored(record) for record in records]])

    assert steno("export", "live", "--format", "asciicast").text.splitlines()[1:] == ['[1.000000, "o", "prompt> "]']
    assert steno("export", "live", "--format", "text").out == b"prompt> \n"


def test_a_file_is_written_whole_in_the_place_of_the_old_one(steno: Steno, recorded: str, tmp_path: Path) -> None:
    target = tmp_path / "out.bytes"
    target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(target)

    assert steno("export", recorded, "--format", "raw", "-o", str(link)).out == b""

    assert link.is_symlink()
    assert target.read_bytes() == b"".join(BYTES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "link", "out.bytes"]


def test_what_cannot_be_exported_leaves_the_old_file(
    steno: Steno, recorded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.cast"
    target.write_text("old")

    def fail(*args: object) -> list[str]:
        raise lmdb.DiskError("disk full")

    assert steno("export", "nobody", "--format", "raw", "-o", str(target)).status == 1
    monkeypatch.setattr(tools.cli.export, "_raw", fail)
    assert steno("export", recorded, "--format", "raw", "-o", str(target)).status == 1

    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.cast"]


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(steno: Steno, recorded: str, tmp_path: Path) -> None:
    assert steno("export", recorded, "--format", "raw", "-o", "/dev/null").status == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert steno("export", recorded, "--format", "raw", "-o", "-").out == b"".join(BYTES)


@pytest.mark.parametrize(
    ("argv", "status", "error"),
    [
        (["demo"], 2, "the following arguments are required: --format"),
        (["demo", "--format", "gif"], 2, "invalid choice: 'gif'"),
        (["demo", "--format", "text", "--cast-version", "2"], 2, "--cast-version is of --format asciicast"),
        (["demo", "--format", "asciicast", "--cast-version", "1"], 2, "invalid choice"),
        (["nobody", "--format", "text"], 1, "no session 'nobody'"),
        (["demo", "--format", "text", "-o", "/nowhere/file"], 1, "/nowhere/file: No such file or directory"),
        (["demo", "--format", "text", "-o", "/tmp"], 1, "/tmp: Is a directory"),
    ],
)
def test_what_export_does_not_do(steno: Steno, recorded: str, argv: list[str], status: int, error: str) -> None:
    done = steno("export", *argv)

    assert (done.status, done.out) == (status, b"")
    assert error in done.err


# -- import --------------------------------------------------------------------------------------------------------


def test_a_recording_becomes_a_session_and_its_id_is_printed(steno: Steno, tmp_path: Path) -> None:
    file = cast(tmp_path / "demo.cast", '[1, "o", "a\\r\\n"]', '[2.5, "x", "3"]')

    done = steno("import", str(file))

    assert done == (0, b"demo-20231114-221320\n", "")
    [row] = steno("sessions", "--json").rows
    assert {key: row[key] for key in ("agent", "state", "exit_code", "duration_s", "lines", "bytes", "recorder")} == {
        "agent": "demo",
        "state": "failed",
        "exit_code": 3,
        "duration_s": 2.5,
        "lines": 1,
        "bytes": 3,
        "recorder": None,
    }
    assert row["started_at"] == "2023-11-14T22:13:20.000000000Z"
    assert row["ended_at"] == "2023-11-14T22:13:22.500000000Z"
    assert steno("replay", "demo", "--speed", "max").out == b"a\r\n"
    assert holds(steno)


def test_a_recording_without_a_time_has_the_file_s(steno: Steno, tmp_path: Path) -> None:
    file = cast(tmp_path / "old.cast", header='{"version": 3, "term": {"cols": 80, "rows": 24}}\n')
    os.utime(file, ns=(0, 1_600_000_000_123_456_789))

    assert steno("import", str(file), "--agent", "codex").out == b"codex-20200913-122640\n"
    assert steno("show", "codex", "--json").rows[0]["started_at"] == "2020-09-13T12:26:40.123456789Z"


def test_the_same_recording_twice_is_two_sessions(steno: Steno, tmp_path: Path) -> None:
    file = str(cast(tmp_path / "demo.cast", '[1, "o", "a"]'))

    assert steno("import", file, file).text.split() == ["demo-20231114-221320", "demo-20231114-221320-2"]
    assert steno("import", file).text.split() == ["demo-20231114-221320-3"]
    assert holds(steno)


def test_an_id_that_is_taken_meanwhile_is_not_used(
    steno: Steno, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided again inside the transaction, as for every session."""
    file = str(cast(tmp_path / "demo.cast", '[1, "o", "a"]'))
    steno("import", file)
    monkeypatch.setattr(Store, "session", lambda store, session: None)

    assert steno("import", file).out == b"demo-20231114-221320-2\n"
    assert holds(steno)


def test_good_recordings_are_imported_and_bad_ones_refused_whole(steno: Steno, tmp_path: Path) -> None:
    good = [str(cast(tmp_path / f"good{n}.cast", '[1, "o", "a"]')) for n in (1, 2)]
    bad = str(cast(tmp_path / "bad.cast", *(f'[{n}, "o", "line\\r\\n"]' for n in range(1000)), "[1000]"))

    done = steno("import", good[0], bad, str(tmp_path / "absent.cast"), str(tmp_path), good[1])

    assert done.status == 1
    assert done.text.split() == ["good1-20231114-221320", "good2-20231114-221320"]
    assert done.err.splitlines() == [
        f"error: {bad}:1002: bad event: it should be `array` of length 3",
        f"error: {tmp_path}/absent.cast: No such file or directory",
        f"error: {tmp_path}: Is a directory",
    ]
    assert positions(steno) == (10, ["good1-20231114-221320", "good2-20231114-221320"])
    assert holds(steno)


def test_what_is_ignored_in_a_recording_is_told(steno: Steno, tmp_path: Path) -> None:
    header = '{"version": 2, "width": 80, "height": 24, "timestamp": 0, "theme": {"fg": "\\u001b[31m"}}\n'
    file = cast(tmp_path / "odd.cast", '[1, "?", "a"]', '[0.5, "o", "b"]', header=header)

    done = steno("import", str(file))

    assert done.out == b"odd-19700101-000000\n"
    assert done.err.splitlines() == [
        f"warning: {file}: the theme is ignored: its fg is no colour: '\\x1b[31m'",
        f"warning: {file}: 1 event of the unknown code '?' was left out",
        f"warning: {file}: 1 event went back in time: moved to the time of the one before",
    ]


@pytest.mark.parametrize(
    ("file", "agent"),
    [
        ("/a/demo.cast", "demo"),
        ("usaco-99.2025-08-24.agent.cast", "usaco-99.2025-08-24.agent"),
        ("asciimatics.v1.json", "asciimatics.v1"),
        ("my demo (1).cast", "my-demo-1-"),
        ("_.cast", "cast"),
        ("żółć.cast", "cast"),
        ("x" * 100, "x" * 64),
    ],
)
def test_the_agent_is_named_after_the_file(file: str, agent: str) -> None:
    assert agent_name(file) == agent


def test_an_agent_s_name_must_be_one(steno: Steno, tmp_path: Path) -> None:
    done = steno("import", str(cast(tmp_path / "a.cast")), "--agent", "../x")

    assert (done.status, done.out) == (2, b"")
    assert "'../x' cannot name an agent" in done.err


def test_ids_go_to_stdout_also_beside_a_progress_bar(tmp_path: Path) -> None:
    file = cast(tmp_path / "demo.cast", *(f'[{n}, "o", "{n:01000}"]' for n in range(1000)))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "tools.cli.main", "--home", str(tmp_path / "home"), "import", str(file)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.read() == b"demo-20231114-221320\n"
    assert b"importing" in os.read(ours, 65_536)
    os.close(ours)


def test_a_full_segment_gives_way_to_the_next(steno: Steno, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STENO_SEGMENT_BYTES", "65536")
    file = str(cast(tmp_path / "demo.cast", *(f'[{n}, "o", "{n:0100}\\r\\n"]' for n in range(3000))))

    assert steno("import", file, file, file).status == 0

    with steno.store() as store:
        assert len(store.segments()) == 3
    assert holds(steno)


def test_a_recording_that_no_transaction_can_hold_is_refused(
    steno: Steno, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is written; and where that was misjudged, LMDB's own refusal leaves nothing of it."""
    for module in ("eventlog.segment", "tools.cli.import_"):
        monkeypatch.setattr(f"{module}.MIN_MAP_BYTES", 2 << 20)  # so that 3 MB are a huge recording
    small = str(cast(tmp_path / "small.cast", '[1, "o", "a"]'))
    big = cast(tmp_path / "big.cast", *(f'[{n}, "o", "{n:060000}\\r\\n"]' for n in range(50)))
    monkeypatch.setenv("STENO_SEGMENT_BYTES", "65536")
    steno("import", small)
    before = positions(steno)

    first = steno("import", str(big))
    monkeypatch.setattr(tools.cli.import_, "FILLED", 10.0)
    second = steno("import", str(big))

    for done in (first, second):
        assert (done.status, done.out) == (1, b"")
        assert "big.cast: takes 3 MB in one transaction, a segment of this log has room for 2 MB" in done.err
        assert "try: STENO_SEGMENT_BYTES=2097152 steno import" in done.err
    assert positions(steno) == before
    assert steno("import", small).status == 0
    assert holds(steno)

    monkeypatch.setattr(tools.cli.import_, "FILLED", 0.9)
    monkeypatch.setenv("STENO_SEGMENT_BYTES", "2097152")
    assert steno("import", str(big)).out == b"big-20231114-221320\n"
    assert holds(steno)


# -- the corpus, there and back ------------------------------------------------------------------------------------


def casts() -> list[Path]:
    found = sorted(CORPUS.glob("asciicast/*/*"))
    assert len(found) == 53
    return found


def told(path: Path) -> tuple[int, list[tuple[Decimal, str, str]]]:
    """Version and events of a recording, times since the beginning; read without any of our code."""
    text = path.read_text("utf-8")
    if path.name.endswith(".v1.json"):
        chunks = json.loads(text, parse_float=Decimal)["stdout"]
        return 1, since_the_beginning([(delay, "o", data) for delay, data in chunks])
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("#")]
    version = json.loads(lines[0])["version"]
    events = [tuple(json.loads(line, parse_float=Decimal)) for line in lines[1:]]
    return version, since_the_beginning(events) if version == 3 else events


def since_the_beginning(events: Sequence[tuple[Decimal, str, str]]) -> list[tuple[Decimal, str, str]]:
    now = Decimal(0)
    found = []
    for interval, code, data in events:
        now += interval
        found.append((now, code, data))
    return found


def never_back(events: Sequence[tuple[Decimal, str, str]]) -> list[tuple[Decimal, str, str]]:
    """A log's time does not fall, and the import says how many events that moved."""
    latest = Decimal(0)
    found = []
    for now, code, data in events:
        latest = max(latest, now)
        found.append((latest, code, data))
    return found


@needs_corpus
def test_every_recording_comes_back_as_it_was(steno: Steno, tmp_path: Path) -> None:
    """Import, export in the same version, import that: the same events, to the microsecond that the format has."""
    done = steno("import", *map(str, casts()))
    assert done.status == 0
    sessions = done.text.split()
    assert len(sessions) == len(set(sessions)) == 53
    assert {line.split(": ", 2)[2] for line in done.err.splitlines()} == {
        f"{count} event{'s' if count > 1 else ''} went back in time: moved to the time of the one before"
        for count in (64, 19, 1, 28)
    }
    assert holds(steno)

    exported = []
    for path, session in zip(casts(), sessions, strict=True):
        version, events = told(path)
        target = tmp_path / f"{session}.cast"
        argv = ["--cast-version", "2"] if version < 3 else []
        assert steno("export", session, "--format", "asciicast", *argv, "-o", str(target)) == (0, b"", ""), path
        exported.append(target)
        same, found = told(target)
        assert same == max(version, 2)
        assert [e for e in found if e[1] != "x"] == [e for e in never_back(events) if e[1] != "x"], path
        if version == 3:
            assert [e[2] for e in found if e[1] == "x"] == ([e[2] for e in events if e[1] == "x"] or ["0"]), path

    again = Steno(tmp_path / "again", steno._captured)
    done = again("import", *map(str, exported))
    assert (done.status, done.err) == (0, "")
    assert verify(again.home / "log") == []
    with steno.store() as first, again.store() as second:
        for before, after in zip(sessions, done.text.split(), strict=True):
            assert output_of(first, before) == output_of(second, after), before


def output_of(store: Store, session: str) -> list[tuple[int, bytes]]:
    """The lines with their times, to the microsecond."""
    return [
        ((elapsed_ns + 500) // 1000, line)
        for record in store.records(store.session_start(session), session=session)
        if isinstance(record.event, OutputRun)
        for elapsed_ns, lines in record.event.reads
        for line in lines
    ]


@needs_corpus
@pytest.mark.skipif(ASCIINEMA is None, reason="asciinema is not installed: pip install asciinema==2.4.0")
@pytest.mark.parametrize(
    "path",
    [
        "agentapi/claude.cast",
        "asciinema-player/asciimatics-20055.v1.json",
        "asciinema-server/v3-full.cast",
        "mitmproxy/mitmproxy_replay_requests.cast",
        "tb-tests/swe-bench-astropy-2.tests.cast",
    ],
)
def test_the_stock_asciinema_shows_what_replay_shows(steno: Steno, tmp_path: Path, path: str) -> None:
    assert ASCIINEMA is not None
    session = steno("import", str(CORPUS / "asciicast" / path)).text.strip()
    target = tmp_path / "out.cast"
    steno("export", session, "--format", "asciicast", "--cast-version", "2", "-o", str(target))

    shown = subprocess.run(
        [ASCIINEMA, "cat", str(target)],
        capture_output=True,
        check=True,
        start_new_session=True,  # without a terminal of its own to put into raw mode
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "ignore", "HOME": str(tmp_path)},
        timeout=60,
    )

    assert shown.stdout == steno("replay", session, "--speed", "max").out != b""


@needs_corpus
def test_no_malformed_recording_leaves_a_trace(steno: Steno) -> None:
    files = sorted((CORPUS / "asciicast-malformed").iterdir())
    done = steno("import", *map(str, files))

    assert done.status == 1
    assert len(done.text.split()) == 1
    refused = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert all(re.fullmatch(r"error: \S+/v[23]-[\w-]+\.cast:3: .+", line) for line in refused)
    assert [line.split(":")[1].rsplit("/", 1)[1] for line in refused] == [
        file.name for file in files if file.name != "v2-invalid-theme.cast"
    ]
    assert len(positions(steno)[1]) == 1
    assert holds(steno)
