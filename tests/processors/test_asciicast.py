"""Recordings of asciinema's three versions, to events and back; what is refused, and what is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.codec import OutputRun, Record, output_record
from eventlog.events import (
    Event,
    Gap,
    Input,
    Marker,
    Output,
    Resized,
    SessionExited,
    SessionStarted,
    StateChanged,
    Stream,
)
from eventlog.promises import Promises
from eventlog.sessions import Session, fold
from processors.asciicast import CastError, CastEvent, CastWriter, Header, Imported, read_cast, to_records, write_cast

MALFORMED = Path(__file__).parents[3] / "shared" / "corpus" / "asciicast-malformed"
BEGAN_NS = 1_795_342_500_000_000_000
V2 = b'{"version": 2, "width": 80, "height": 24}\n'
V3 = b'{"version": 3, "term": {"cols": 80, "rows": 24}}\n'


def read(data: bytes) -> tuple[Header, list[CastEvent]]:
    header, events = read_cast(data.splitlines(keepends=True), "a.cast")
    return header, list(events)


def imported(data: bytes) -> Imported:
    header, events = read_cast(data.splitlines(keepends=True), "a.cast")
    return to_records(header, events, agent="demo", began_ns=BEGAN_NS)


def numbered(records: Sequence[Record]) -> list[Record]:
    """As the log would have them."""
    position = 0
    for record in records:
        position += record.count
        record.last = position
        record.session = "demo-1"
    return list(records)


def row_of(records: Sequence[Record]) -> Session:
    row: Session | None = None
    for record in numbered(records):
        row = fold(row, record)
    assert row is not None
    return row


def events_of(records: Sequence[Record]) -> list[tuple[float, Event]]:
    return [(one.elapsed_ns / 1e9, one.event) for record in numbered(records) for one in record.events()]


def written(
    records: Sequence[Record], version: Literal[2, 3] = 3
) -> tuple[dict[str, Any], list[list[Any]], CastWriter]:
    """Header and events of the cast, as any JSON reader sees them."""
    row = row_of(records)
    cast = write_cast(iter(records), row, version)
    lines = b"".join(cast).decode().split("\n")
    assert lines.pop() == ""
    return json.loads(lines[0]), [json.loads(line) for line in lines[1:]], cast


def session(*events: Event | tuple[Stream, bytes], every_ns: int = 1_000_000_000, cols: int = 80) -> list[Record]:
    """A session in which something happens every second."""
    argv = ["bash", "-c", "a b"]
    records = [Record("", BEGAN_NS, 0, SessionStarted("demo", argv, "/", "pty", cols, 24, "", {}, "1-a", "cli"))]
    for n, event in enumerate(events, 1):
        if isinstance(event, tuple):
            records.append(output_record("", BEGAN_NS, event[0], [(n * every_ns, [event[1]])]))
        else:
            records.append(Record("", BEGAN_NS + n * every_ns, n * every_ns, event))  # type: ignore[arg-type]
    return records


# -- reading -------------------------------------------------------------------------------------------------------


def test_version_1_is_one_document_with_delays() -> None:
    document = {
        "version": 1,
        "width": 100,
        "height": 50,
        "duration": 3.5,
        "command": "/bin/zsh",
        "title": "hello",
        "stdout": [[0.25, "a"], [1.5, "b\r\n"]],
    }
    for text in (json.dumps(document), json.dumps(document, indent=2)):
        header, events = read(text.encode())

        assert (header.cols, header.rows, header.duration_ns) == (100, 50, 3_500_000_000)
        assert (header.command, header.title) == ("/bin/zsh", "hello")
        assert events == [(250_000_000, "o", "a"), (1_750_000_000, "o", "b\r\n")]


def test_version_2_has_times_since_the_beginning() -> None:
    header, events = read(
        b'{"version": 2, "width": 96, "height": 26, "timestamp": 1506410422, "title": null, "env": {"SHELL": null}}\n'
        b'[0.000001, "o", "\\u001b[31m\xc5\xbc"]\n\n[1, "i", "\\r"]\n[1.5, "r", "100x50"]\n[2, "m", ""]\n'
    )

    assert (header.cols, header.rows, header.timestamp_ns) == (96, 26, 1_506_410_422_000_000_000)
    assert events == [
        (1_000, "o", "\x1b[31mż"),
        (1_000_000_000, "i", "\r"),
        (1_500_000_000, "r", "100x50"),
        (2_000_000_000, "m", ""),
    ]


def test_version_3_has_intervals_and_comments() -> None:
    header, events = read(V3 + b'# a comment\n[1.5, "o", "a"]\n\n[0.25, "o", "b"]\n#\n[0, "x", "3"]\n')

    assert (header.version, header.cols, header.rows) == (3, 80, 24)
    assert events == [(1_500_000_000, "o", "a"), (1_750_000_000, "o", "b"), (1_750_000_000, "x", "3")]


def test_a_byte_order_mark_and_blank_lines_before_the_header_are_passed_over() -> None:
    assert read(b"\xef\xbb\xbf" + V2)[0].cols == 80
    assert read(b"\n\n" + V2)[0].cols == 80


BAD = [
    (b"", 1, "empty"),
    (b"\n\n", 2, "empty"),
    (b"hello\n", 1, "does not begin with a header"),
    (b'["o"]\n', 1, "does not begin with a header"),
    (b'{"version": 4}\n', 1, "version is 4"),
    (b'{"version": true}\n', 1, "version is True"),
    (b'{"version": "2"}\n', 1, "version is '2'"),
    (b'{"width": 80}\n', 1, "version is None"),
    (b'{"version": 2, "width": 80,\n[1, "o", "a"]\n', 2, "JSON is malformed"),
    (b'{"version": 2,', 1, "truncated"),
    (b'{"version": 2, "width": 80}\n', 1, "missing required field `height`"),
    (b'{"version": 2, "width": 0, "height": 24}\n', 1, "`int` >= 1"),
    (b'{"version": 2, "width": 80, "height": 24, "timestamp": -1}\n', 1, "timestamp is -1 s"),
    (b'{"version": 2, "width": 80, "height": 24, "timestamp": 1e30}\n', 1, "timestamp is 1e+30 s"),
    (b'{"version": 2, "width": 80, "height": 24, "command": ["a"]}\n', 1, "$.command"),
    (b'{"version": 3, "term": {"cols": 80}}\n', 1, "missing required field `rows`"),
    (V2 + b"lol!\n", 2, "not an event"),
    (V2 + b'[1, "o", "a"', 2, "not an event"),  # a recorder that was killed
    (V2 + b'\n[1, "o"]\n', 3, "`array` of length 3"),
    (V2 + b"{}\n", 2, "should be `array`, got `object`"),
    (V2 + b'[1, "o", "a", ""]\n', 2, "`array` of length 3"),
    (V2 + b'["1", "o", "a"]\n', 2, "its time should be `float`, got `str`"),
    (V2 + b'[true, "o", "a"]\n', 2, "its time should be `float`, got `bool`"),
    (V2 + b'[-1, "o", "a"]\n', 2, "its time is -1 s"),
    (V2 + b'[1e300, "o", "a"]\n', 2, "its time is 1e+300 s"),
    (V2 + b'[1e999, "o", "a"]\n', 2, "its time Number out of range"),
    (V2 + b'[NaN, "o", "a"]\n', 2, "not an event"),
    (V2 + b'[1, 5, "a"]\n', 2, "its code should be `str`, got `int`"),
    (V2 + b'[1, "o", true]\n', 2, "its data is no text: true"),
    (V2 + b'[1, "i", null]\n', 2, "its data is no text: null"),
    (V2 + b'[1, "r", "-1x0"]\n', 2, "no size: '-1x0'"),
    (V2 + b'[1, "r", "80x99999"]\n', 2, "no size"),
    (V2 + b'[1, "o", "\\ud83d"]\n', 2, "half of a surrogate pair"),
    (V2 + b'[1, "o", "\xff"]\n', 2, "not UTF-8"),
    (V2 + b"# a comment\n", 2, "not an event"),
    (V3 + b'[1, "x", "ok"]\n', 2, "no exit status: 'ok'"),
    (V3 + b'[4e9, "o", "a"]\n' * 2, 3, "the time so far is 8e+09 s"),
    (b'{"version": 1, "width": 80, "height": 24}\n', 1, "missing required field `stdout`"),
    (b'{\n"version": 1,\n"width": 80,\n"height": 24,\n"stdout": [[1, "a"],,]}\n', 5, "JSON is malformed"),
    (b'{\n"version": 1,\n"width": 80,\n"height": 24,\n"stdout": [\n[1, "a"],\n[-2, "b"]\n]}\n', 7, "its delay is -2 s"),
    (b'{\n"version": 1,\n"width": 80,\n"height": 24,\n"stdout": [\n[1, "a"],\n[1, 2]\n]}\n', 7, "got `int`"),
]


@pytest.mark.parametrize(("data", "line", "reason"), BAD, ids=[f"{reason}" for _, _, reason in BAD])
def test_what_is_wrong_is_named_with_its_line(data: bytes, line: int, reason: str) -> None:
    with pytest.raises(CastError) as caught:
        read(data)

    assert (caught.value.path, caught.value.line) == ("a.cast", line)
    assert reason in caught.value.reason
    assert str(caught.value) == f"a.cast:{line}: {caught.value.reason}"


@pytest.mark.skipif(not MALFORMED.is_dir(), reason=f"no corpus in {MALFORMED}")
def test_every_malformed_file_of_the_corpus_is_refused_with_its_line_or_taken_for_a_reason() -> None:
    """All but one have a bad third line; a theme is no reason to refuse what was recorded."""
    files = sorted(MALFORMED.iterdir())
    assert len(files) == 15
    for file in files:
        if file.name == "v2-invalid-theme.cast":
            header, events = read(file.read_bytes())
            assert header.warnings == ["the theme is ignored: its fg is no colour: 'white'"]
            assert len(events) == 3
            continue
        with pytest.raises(CastError) as caught:
            read(file.read_bytes())
        assert caught.value.line == 3, file


@pytest.mark.parametrize(
    ("theme", "warnings"),
    [
        ({}, []),
        (None, []),
        ({"fg": "#aaaaaa", "bg": "#000000", "palette": ":".join(["#123456"] * 8)}, []),
        ({"fg": "#aaaaaa", "bg": "#000000", "palette": ":".join(["#ABCDEF"] * 16)}, []),
        ({"fg": "#aaaaaa", "bg": 5}, ["the theme is ignored: its bg is no colour: 5"]),
        ({"fg": "#aaaaaa", "bg": "#00000", "palette": ""}, ["the theme is ignored: its bg is no colour: '#00000'"]),
        (
            {"fg": "#aaaaaa", "bg": "#000000", "palette": ""},
            ["the theme is ignored: its palette has not 8 or 16 colours: ''"],
        ),
        ("dark", ["the theme is ignored: it is no object"]),
    ],
)
def test_a_bad_theme_is_ignored_with_a_warning(theme: Any, warnings: list[str]) -> None:
    for header in (
        {"version": 2, "width": 80, "height": 24, "theme": theme},
        {"version": 3, "term": {"cols": 80, "rows": 24, "theme": theme}},
    ):
        assert read(json.dumps(header).encode())[0].warnings == warnings


# -- recordings become sessions ------------------------------------------------------------------------------------


def test_a_recording_becomes_a_session() -> None:
    found = imported(
        b'{"version": 3, "term": {"cols": 90, "rows": 30}, "title": "a demo", "command": "make -k test"}\n'
        b'[0.5, "o", "one\\r\\ntwo\\r\\n$ "]\n[0.5, "i", "ls\\r"]\n[0, "r", "100x40"]\n'
        b'[1, "m", "here"]\n[1, "x", "2"]\n'
    )

    assert found.warnings == []
    assert events_of(found.records) == [
        (
            0,
            SessionStarted(
                agent="demo",
                argv=["make", "-k", "test"],
                cwd="",
                mode="pty",
                cols=90,
                rows=30,
                host="",
                tags={"title": "a demo"},
                recorder="import",
                source="import",
            ),
        ),
        (0, StateChanged("starting", "running", "imported")),
        (0.5, Output("pty", b"one\r\n")),
        (0.5, Output("pty", b"two\r\n")),
        (0.5, Output("pty", b"$ ")),
        (1, Input(b"ls\r", 3, False, "import")),
        (1, Resized(100, 40, "import")),
        (2, Marker("here", "import")),
        (3, SessionExited(2, None, 3_000_000_000, 2, 12, False, {})),
        (3, StateChanged("running", "failed", "exit code 2")),
    ]


def test_without_an_exit_status_0_is_assumed_and_that_is_said() -> None:
    records = imported(V2 + b'[1, "o", "a"]\n').records

    assert [record.event for record in records[-2:]] == [
        SessionExited(0, None, 1_000_000_000, 0, 1, False, {}),
        StateChanged("running", "exited", "the recording tells no exit status, 0 is assumed"),
    ]
    assert row_of(records).exit_code == 0


def test_a_session_lasts_as_long_as_its_header_says() -> None:
    assert (
        row_of(imported(V2.replace(b"}", b', "duration": 9.5}') + b'[1, "o", "a"]\n').records).duration_ns
        == 9_500_000_000
    )
    assert (
        row_of(imported(V2.replace(b"}", b', "duration": 0.5}') + b'[1, "o", "a"]\n').records).duration_ns
        == 1_000_000_000
    )


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        (None, []),
        ("", []),
        ("/bin/bash -l", ["/bin/bash", "-l"]),
        ("cat a | sort", ["sh", "-c", "cat a | sort"]),
        ('PS1="> " bash', ["sh", "-c", 'PS1="> " bash']),
        ("don't", ["sh", "-c", "don't"]),
    ],
)
def test_a_command_line_is_found_again(command: str | None, argv: list[str]) -> None:
    header = {"version": 3, "term": {"cols": 80, "rows": 24}, "command": command}
    records = imported(json.dumps(header).encode()).records

    assert row_of(records).argv == argv
    assert written(records)[0].get("command") == (command or None)


def test_a_long_output_is_cut_at_64_kib_and_comes_back_whole() -> None:
    text = "x" * 200_000 + "\r\n" + "ż" * 40_000
    records = imported(V3 + json.dumps([1, "o", text]).encode() + b"\n").records

    lengths = [len(event.data) for _, event in events_of(records) if isinstance(event, Output)]
    assert lengths == [65_536, 65_536, 65_536, 3_394, 65_536, 14_464]
    assert written(records)[1][0] == [1.0, "o", text]


def test_what_is_not_in_the_session_is_reported() -> None:
    found = imported(
        V2
        + b'[1, "z", {"a": 1}]\n[2, "o", "b"]\n[1.5, "o", "c"]\n[1.6, "o", ""]\n[2, "y", "d"]\n[3, "z", null]\n'
        + b'[3, "x", "1"]\n[4, "o", "appended"]\n[5, "x", "0"]\n'
    )

    assert found.warnings == [
        "1 event of the unknown code 'y' was left out",
        "2 events of the unknown code 'z' were left out",
        "2 events went back in time: moved to the time of the one before",
        "1 empty output event was left out",
        "of 2 exit statuses the last one holds: a recording that was appended to",
    ]
    assert [(time, event.data) for time, event in events_of(found.records) if isinstance(event, Output)] == [
        (2, b"b"),
        (2, b"c"),
        (4, b"appended"),
    ]
    assert row_of(found.records).state == "exited"


cast_events = st.lists(
    st.tuples(
        st.integers(0, 10**10),  # microseconds
        st.one_of(
            st.tuples(st.just("o"), st.text(min_size=1) | st.sampled_from(["a\r\n", "\n\n", "x\ny"])),
            st.tuples(st.sampled_from("im"), st.text()),
            st.tuples(st.just("r"), st.tuples(st.integers(1, 999), st.integers(1, 999)).map("{0[0]}x{0[1]}".format)),
        ),
    ),
    max_size=20,
).map(lambda events: [CastEvent(us * 1000, code, data) for us, (code, data) in sorted(events, key=lambda e: e[0])])


@given(cast_events, st.sampled_from([2, 3]))
def test_what_is_imported_is_exported_as_it_was(events: list[CastEvent], version: Literal[2, 3]) -> None:
    found = to_records(Header(version, 80, 24), iter(events), agent="demo", began_ns=BEGAN_NS)
    row = row_of(found.records)
    promises = Promises(1, {row.session: row})

    assert found.warnings == []
    assert [finding for record in found.records for finding in promises.record(record)] == []
    assert list(promises.finish()) == []
    header, read_back = read_cast(b"".join(write_cast(found.records, row, version)).splitlines(keepends=True))
    assert (header.cols, header.rows) == (80, 24)
    kept = [event for event in events if not (event.code == "i" and not event.data)]
    assert [event for event in read_back if event.code != "x"] == kept


# -- writing -------------------------------------------------------------------------------------------------------


def test_a_session_is_written_as_version_3() -> None:
    header, events, cast = written(
        session(
            StateChanged("starting", "running", "started", 17),
            ("stdout", b"out\n"),
            ("stderr", b"err\n"),
            Input(b"y\r", 2, False, "terminal"),
            Resized(100, 40, "terminal"),
            Marker("here", "cli"),
            SessionExited(3, None, 7_000_000_000, 2, 8, False, {}),
            StateChanged("running", "failed", "exit code 3"),
            cols=132,
        )
    )

    assert header == {
        "version": 3,
        "term": {"cols": 132, "rows": 24},
        "timestamp": BEGAN_NS // 10**9,
        "command": "bash -c 'a b'",
    }
    assert events == [
        [2, "o", "out\n"],
        [1, "o", "err\n"],
        [1, "i", "y\r"],
        [1, "r", "100x40"],
        [1, "m", "here"],
        [1, "x", "3"],
    ]
    assert cast.warnings() == []


def test_version_2_knows_no_exit_status() -> None:
    header, events, _ = written(
        session(("pty", b"a"), SessionExited(3, None, 2_500_000_000, 0, 1, False, {})), version=2
    )

    assert (header["width"], header["height"], header["duration"]) == (80, 24, 2.5)
    assert events == [[1, "o", "a"]]


@pytest.mark.parametrize(("signal", "status"), [("SIGTERM", "143"), ("SIGKILL", "137"), ("SIGNONSENSE", "128")])
def test_a_signal_is_written_as_a_shell_has_it(signal: str, status: str) -> None:
    assert written(session(SessionExited(None, signal, 1, 0, 0, False, {})))[1] == [[1, "x", status]]


def test_a_character_cut_between_events_goes_whole_into_the_second() -> None:
    """Each stream has its own cuts, and input is no output."""
    _, events, cast = written(
        session(
            ("stdout", b"a\xe4\xb8"),
            ("stderr", b"\xc5"),
            Input(b"\xf0\x9f", 2, False, "terminal"),
            ("stdout", b"\xadb"),
            ("stderr", b"\xbc"),
            Input(b"\x98\x80", 2, False, "terminal"),
        )
    )

    assert [event[1:] for event in events] == [["o", "a"], ["o", "中b"], ["o", "ż"], ["i", "😀"]]
    assert cast.replaced == 0


def test_bytes_that_are_no_utf_8_are_replaced_and_counted() -> None:
    _, events, cast = written(
        session(
            ("pty", "genuine � and ".encode() + b"\xff\xfe"),
            ("pty", b"\xe4"),
            ("pty", b"x\xf0\x9f"),
            SessionExited(0, None, 1, 0, 0, False, {}),
        )
    )

    assert "".join(data for _, code, data in events if code == "o") == "genuine � and ���x�"
    assert [event[1] for event in events] == ["o", "o", "o", "x"]
    assert cast.replaced == 4
    assert cast.warnings() == ["4 invalid UTF-8 sequences were written as U+FFFD"]


@given(st.binary(max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_the_text_does_not_depend_on_how_the_bytes_were_cut(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(places) if begin < end]
    _, events, cast = written(session(*(("pty", piece) for piece in pieces)))

    text = data.decode("utf-8", "replace")
    assert "".join(event[2] for event in events) == text
    assert cast.replaced == text.count("�") - data.count("�".encode())


def test_what_a_cast_cannot_say_is_counted() -> None:
    _, events, cast = written(session(Input(None, 8, True, "terminal"), Gap("pty", 1_234, "a reason"), ("pty", b"a")))

    assert events == [[3, "o", "a"]]
    assert cast.warnings() == ["1 masked input was left out", "1,234 bytes of output were never recorded"]


@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=50))
def test_rounding_never_adds_up(steps_ns: list[int]) -> None:
    """The sum of version 3's intervals is version 2's time, half a microsecond from the truth at the most."""
    times_ns = list(itertools.accumulate(steps_ns))
    began = session()[0]
    records = [began, output_record("", BEGAN_NS, "pty", [(now_ns, [b"x"]) for now_ns in times_ns])]
    row = row_of(records)
    v2, v3 = (
        [
            json.loads(line, parse_float=Decimal)[0]
            for line in b"".join(write_cast(records, row, version)).splitlines()[1:]
        ]
        for version in (2, 3)
    )

    assert list(itertools.accumulate(v3)) == v2
    assert all(
        abs(Decimal(now_ns).scaleb(-9) - us) <= Decimal("0.0000005") for now_ns, us in zip(times_ns, v2, strict=True)
    )


def test_each_read_is_one_event_however_many_lines_it_brought() -> None:
    records = session(("pty", b"prompt$ "))
    records.append(output_record("", BEGAN_NS, "pty", [(2_000_000_000, [b"a\r\n", b"b\r\n"]), (2_000_000_000, [b"c"])]))
    assert isinstance(records[-1].event, OutputRun)

    assert written(records, 2)[1] == [[1, "o", "prompt$ "], [2, "o", "a\r\nb\r\n"], [2, "o", "c"]]


def test_a_session_whose_beginning_is_pruned_still_has_a_header() -> None:
    records = session(("pty", b"a"))
    row = row_of(records)

    lines = b"".join(write_cast(records[1:], row)).splitlines()

    assert json.loads(lines[0])["term"] == {"cols": 80, "rows": 24}
    assert len(lines) == 2
    assert len(b"".join(write_cast([], row)).splitlines()) == 1
