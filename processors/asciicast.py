"""Events <-> asciicast, asciinema's recordings: versions 1, 2 and 3 are read, 2 and 3 are written. Pure.

    v1  one JSON document; chunks of [delay since the one before, text]
    v2  a header line, then a line an event: [seconds since the beginning, code, data]
    v3  a header line, then [seconds since the event before, code, data]; comments begin with ``#``

Codes are ``o`` output, ``i`` input, ``r`` resize (``80x24``), ``m`` marker, and in v3 ``x``, the exit status. Formats:
docs.asciinema.org/manual/asciicast. Times have six decimals, as asciinema writes them; in v3 each is the difference of
two rounded times, so that rounding never adds up.

A recording is text and output is bytes. A character cut between two events goes whole into the second; bytes that are
not UTF-8 become U+FFFD, and are counted. What an event of ours has and a cast has not (masked input, gaps, states) is
counted too, and so is, the other way, what we have no event for: an unknown code is reported, never silently dropped.
A session on pipes keeps its bare LF: the cast has the bytes that were recorded, and a player shows them as a terminal
in raw mode would.

Strict: one bad event refuses the whole recording, with its line. Let through and reported are times that go back
(recorders wrote them: 4 of the 53 casts of the corpus have some), empty output, and a theme that is none.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
import signal
from codecs import utf_8_decode
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from eventlog.codec import OutputRun, Read, Record, output_record
from eventlog.events import Gap, Input, Marker, Resized, SessionExited, SessionStarted, StateChanged
from eventlog.sessions import Session

MAX_OUTPUT_BYTES = 64 << 10  # the contract's limit of an output event
RUN_BYTES = 60_000  # as a recorder's: eventlog/codec.py says why runs
MAX_NS = 1 << 62  # of a start and of a length: their sum still fits the log's 64 bits; 146 years
MAX_CELLS = 65_535  # struct winsize has 16 bits

# What a cast can be made of, for Store.records(kinds=…).
WRITTEN = (SessionStarted, OutputRun, Input, Resized, Marker, Gap, SessionExited)

_NO_STATUS = "the recording tells no exit status, 0 is assumed"
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_STATUS = re.compile(r"-?[0-9]{1,9}")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_PLACES = {"`$[0]`": "its time", "`$[1]`": "its code"}

_encode = msgspec.json.encode
_Cells = Annotated[int, msgspec.Meta(ge=1, le=MAX_CELLS)]
_decode_event = msgspec.json.Decoder(tuple[float, str, Any]).decode
_decode_chunk = msgspec.json.Decoder(tuple[float, str]).decode
_decode_any = msgspec.json.Decoder().decode


class CastError(Exception):
    """A recording that is none, or has one bad event. *line* is 1-based."""

    hint: str | None = None

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


class Header(msgspec.Struct):
    """What a recording says of itself. *timestamp_ns*: wall clock of its start; *warnings*: what was ignored in it."""

    version: int
    cols: int
    rows: int
    timestamp_ns: int | None = None
    duration_ns: int | None = None
    command: str | None = None
    title: str | None = None
    warnings: list[str] = msgspec.field(default_factory=list)


class CastEvent(NamedTuple):
    """*time_ns* is since the beginning, whatever the version; *data* of an unknown code is its JSON."""

    time_ns: int
    code: str
    data: str


# -- reading -------------------------------------------------------------------------------------------------------


class _Common(msgspec.Struct):
    timestamp: int | float | None = None
    duration: int | float | None = None
    command: str | None = None
    title: str | None = None
    theme: Any = None


class _V1(_Common, kw_only=True):
    width: _Cells
    height: _Cells
    stdout: list[msgspec.Raw]


class _V2(_Common, kw_only=True):
    width: _Cells
    height: _Cells


class _Term(msgspec.Struct):
    cols: _Cells
    rows: _Cells
    theme: Any = None


class _V3(_Common, kw_only=True):
    term: _Term


def read_cast(lines: Iterable[bytes], path: str = "cast") -> tuple[Header, Iterator[CastEvent]]:
    """Read a recording of any version; *path* names it in errors.

    Returns:
        the header, and the events, each checked as it is asked for.
    Raises:
        CastError: here, and while events are taken: the first thing that is wrong.
    """
    numbered = enumerate(lines, 1)
    number, line, before = 1, b"", []
    for number, line in numbered:
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip() and not line.startswith(b"#"):
            break
        before.append(line)
    else:
        raise CastError(path, number, "no header: the file is empty")
    if not line.lstrip().startswith(b"{"):
        raise CastError(path, number, "not an asciicast: it does not begin with a header")
    try:
        first = _decode_any(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        first = None  # the first line of a document, or of nothing
    version = first.get("version") if isinstance(first, dict) else None
    if version == 1 or first is None:
        return _read_document(b"".join([*before, line, *(rest for _, rest in numbered)]), path)
    if type(version) is not int or version not in (2, 3):
        raise CastError(path, number, f"not an asciicast of version 1, 2 or 3: version is {version!r}")
    try:
        raw = msgspec.convert(first, _V2) if version == 2 else msgspec.convert(first, _V3)
        header = _header(version, raw)
    except (msgspec.ValidationError, ValueError) as error:
        raise CastError(path, number, f"bad header: {error}") from error
    return header, _events(numbered, path, relative=version == 3)


def _header(version: int, raw: _V1 | _V2 | _V3) -> Header:
    term = raw.term if isinstance(raw, _V3) else None
    cols, rows = (term.cols, term.rows) if term else (raw.width, raw.height)  # type: ignore[union-attr]
    header = Header(version, cols, rows, command=raw.command, title=raw.title)
    for name in ("timestamp", "duration"):
        value = getattr(raw, name)
        if value is not None:
            setattr(header, f"{name}_ns", _nanoseconds(value, name))
    wrong = _wrong_theme(term.theme if term else raw.theme)
    if wrong:
        header.warnings.append(f"the theme is ignored: {wrong}")
    return header


def _nanoseconds(seconds: int | float, name: str) -> int:
    if not 0 <= seconds <= MAX_NS // 10**9:
        raise ValueError(f"{name} is {seconds:g} s")
    return seconds * 10**9 if isinstance(seconds, int) else round(seconds * 1e9)


def _wrong_theme(theme: Any) -> str | None:
    if not theme:
        return None
    if not isinstance(theme, dict):
        return "it is no object"
    for name in ("fg", "bg"):
        if not (isinstance(theme.get(name), str) and _COLOUR.fullmatch(theme[name])):
            return f"its {name} is no colour: {theme.get(name)!r}"
    palette = theme.get("palette")
    colours = palette.split(":") if isinstance(palette, str) else []
    if len(colours) not in (8, 16) or not all(map(_COLOUR.fullmatch, colours)):
        return f"its palette has not 8 or 16 colours: {palette!r}"
    return None


def _events(numbered: Iterator[tuple[int, bytes]], path: str, *, relative: bool) -> Iterator[CastEvent]:
    now_ns = 0
    for number, line in numbered:
        if line.isspace() or (relative and line.startswith(b"#")):
            continue
        try:
            seconds, code, data = _decode_event(line)
            time_ns = _nanoseconds(seconds, "its time")
            if relative:
                time_ns = now_ns = now_ns + time_ns
                _nanoseconds(now_ns // 10**9, "the time so far")
            text = _checked(code, data, relative)
        except (msgspec.DecodeError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise CastError(path, number, _reason(error, line)) from error
        yield CastEvent(time_ns, code, text)


def _checked(code: str, data: Any, is_v3: bool) -> str:
    """The data of an event, right for its code.

    Raises:
        ValueError: it is not.
    """
    if code not in ("o", "i", "m", "r", "x"):
        return data if isinstance(data, str) else _encode(data).decode()
    if not isinstance(data, str):
        raise ValueError(f"bad event: its data is no text: {_encode(data).decode()[:40]}")
    if code == "r":
        size = _SIZE.fullmatch(data)
        if size is None or max(int(size[1]), int(size[2])) > MAX_CELLS:
            raise ValueError(f"bad event: no size: {data[:40]!r}")
    if code == "x" and is_v3 and not _STATUS.fullmatch(data):
        raise ValueError(f"bad event: no exit status: {data[:40]!r}")
    return data


def _reason(error: Exception, line: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "bad event: not UTF-8"
    if isinstance(error, msgspec.ValidationError):
        wrong, _, place = str(error).partition(" - at ")
        return f"bad event: {_PLACES.get(place, 'it')} {wrong.replace('Expected', 'should be', 1)}"
    if isinstance(error, msgspec.DecodeError):
        try:
            json.loads(line, parse_constant=_no_number)
        except ValueError:
            return f"not an event: {error}"
        return "bad event: half of a surrogate pair is no text"  # which Python's json lets through
    text = str(error)
    return text if text.startswith("bad event") else f"bad event: {text}"


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _read_document(document: bytes, path: str) -> tuple[Header, Iterator[CastEvent]]:
    """Version 1, all of it at once."""
    try:
        raw = _decode_any(document)
        version = raw.get("version") if isinstance(raw, dict) else None
        if type(version) is not int or version != 1:
            raise CastError(path, 1, f"not an asciicast of version 1, 2 or 3: version is {version!r}")
        typed = msgspec.json.decode(document, type=_V1)
        header = _header(1, typed)
    except UnicodeDecodeError as error:
        raise CastError(path, 1, "not UTF-8") from error
    except (msgspec.DecodeError, ValueError) as error:
        place = re.search(r"\(byte (\d+)\)", str(error))
        line = 1 + document.count(b"\n", 0, int(place[1])) if place else 1
        if "truncated" in str(error):
            line = max(1, document.rstrip().count(b"\n") + 1)
        raise CastError(path, line, f"not an asciicast: {error}") from error
    return header, _chunks(typed.stdout, document, path)


def _chunks(chunks: list[msgspec.Raw], document: bytes, path: str) -> Iterator[CastEvent]:
    now_ns = 0
    for i, chunk in enumerate(chunks):
        try:
            delay, text = _decode_chunk(chunk)
            now_ns += _nanoseconds(delay, "its delay")
            _nanoseconds(now_ns // 10**9, "the time so far")
        except (msgspec.DecodeError, ValueError) as error:
            place = 0
            for before in chunks[: i + 1]:
                place = document.find(bytes(before), place) + len(bytes(before))
            line = 1 + document.count(b"\n", 0, place - len(bytes(chunk)))
            raise CastError(path, line, _reason(error, bytes(chunk))) from error
        yield CastEvent(now_ns, "o", text)


class Imported(NamedTuple):
    """*records*: a whole session, its id still empty. *warnings*: what is not in it as it was in the recording."""

    records: list[Record]
    warnings: list[str]


def to_records(header: Header, events: Iterable[CastEvent], *, agent: str, began_ns: int) -> Imported:
    """The session that a recording is: started, running, what it shows, exited.

    Raises:
        CastError: from *events*.
    """
    if not 0 <= began_ns <= MAX_NS:
        raise ValueError(f"began_ns is {began_ns}")
    session = _Import(began_ns)
    tags = {"title": header.title} if header.title else {}
    argv = _argv(header.command)
    session.add(0, SessionStarted(agent, argv, "", "pty", header.cols, header.rows, "", tags, "import", "import"))
    session.add(0, StateChanged("starting", "running", "imported"))
    for time_ns, code, data in events:
        session.take(time_ns, code, data)
    session.finish(header.duration_ns)
    return Imported(session.records, header.warnings + session.warnings())


def _argv(command: str | None) -> list[str]:
    """A command line as words where that is all it is, else as asciinema runs it."""
    if not command:
        return []
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    return words if words and shlex.join(words) == command else ["sh", "-c", command]


class _Import:
    """Gathers one session's records. Each cast event with output is one read of a run, so that it is found again."""

    def __init__(self, began_ns: int) -> None:
        self.records: list[Record] = []
        self._began_ns = began_ns
        self._now_ns = 0
        self._reads: list[Read] = []
        self._reads_bytes = 0
        self._lines = 0
        self._bytes = 0
        self._status: int | None = None
        self._statuses = 0
        self._moved = 0
        self._empty = 0
        self._unknown: Counter[str] = Counter()

    def add(
        self, time_ns: int, event: SessionStarted | StateChanged | Input | Resized | Marker | SessionExited
    ) -> None:
        self._end_run()
        self.records.append(Record("", self._began_ns + time_ns, time_ns, event))

    def take(self, time_ns: int, code: str, data: str) -> None:
        if time_ns < self._now_ns:
            time_ns = self._now_ns  # the log's time never falls
            self._moved += 1
        self._now_ns = time_ns
        if code == "o":
            self._output(time_ns, data.encode())
        elif code == "i":
            raw = data.encode()
            self.add(time_ns, Input(raw, len(raw), False, "import"))
        elif code == "r":
            cols, rows = data.split("x")
            self.add(time_ns, Resized(int(cols), int(rows), "import"))
        elif code == "m":
            self.add(time_ns, Marker(data, "import"))
        elif code == "x" and _STATUS.fullmatch(data):
            self._status = int(data)
            self._statuses += 1
        else:
            self._unknown[code] += 1

    def _output(self, time_ns: int, data: bytes) -> None:
        if not data:
            self._empty += 1
            return
        if self._reads_bytes >= RUN_BYTES:
            self._end_run()
        lines = io.BytesIO(data).readlines()
        if len(data) > MAX_OUTPUT_BYTES:
            lines = [piece for line in lines for piece in _pieces(line)]
        self._reads.append((time_ns, lines))
        self._reads_bytes += len(data)
        self._lines += data.count(b"\n")
        self._bytes += len(data)

    def _end_run(self) -> None:
        if self._reads:
            self.records.append(output_record("", self._began_ns, "pty", self._reads))
            self._reads = []
            self._reads_bytes = 0

    def finish(self, duration_ns: int | None) -> None:
        end_ns = max(self._now_ns, duration_ns or 0)
        status = self._status or 0
        reason = _NO_STATUS if self._status is None else f"exit code {status}"
        self.add(end_ns, SessionExited(status, None, end_ns, self._lines, self._bytes, False, {}))
        self.add(end_ns, StateChanged("running", "failed" if status else "exited", reason))

    def warnings(self) -> list[str]:
        found = [
            f"{_counted(count, 'event')} of the unknown code {code!r} {_were(count)} left out"
            for code, count in sorted(self._unknown.items())
        ]
        if self._moved:
            found.append(f"{_counted(self._moved, 'event')} went back in time: moved to the time of the one before")
        if self._empty:
            found.append(f"{_counted(self._empty, 'empty output event')} {_were(self._empty)} left out")
        if self._statuses > 1:
            found.append(f"of {self._statuses} exit statuses the last one holds: a recording that was appended to")
        return found


def _pieces(line: bytes) -> Iterator[bytes]:
    for begin in range(0, len(line), MAX_OUTPUT_BYTES):
        yield line[begin : begin + MAX_OUTPUT_BYTES]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


# -- writing -------------------------------------------------------------------------------------------------------


class CastWriter(Iterator[bytes]):
    """The pieces of a cast, whole lines each. What it could not say is counted once it has ended, in ``warnings``.

    replaced: invalid UTF-8 sequences, written as U+FFFD. masked: inputs left out. lost_bytes: missing in the log.
    """

    def __init__(self, records: Iterable[Record], row: Session, version: Literal[2, 3]) -> None:
        self.replaced = 0
        self.masked = 0
        self.lost_bytes = 0
        self._version = version
        self._held: dict[str, bytes] = {}  # by stream and direction, the beginning of a character
        self._last_us = 0
        self._pieces = self._write(iter(records), row)

    def __next__(self) -> bytes:
        return next(self._pieces)

    def warnings(self) -> list[str]:
        found = []
        if self.replaced:
            found.append(
                f"{_counted(self.replaced, 'invalid UTF-8 sequence')} {_were(self.replaced)} written as U+FFFD"
            )
        if self.masked:
            found.append(f"{_counted(self.masked, 'masked input')} {_were(self.masked)} left out")
        if self.lost_bytes:
            found.append(f"{_counted(self.lost_bytes, 'byte')} of output {_were(self.lost_bytes)} never recorded")
        return found

    def _write(self, records: Iterator[Record], row: Session) -> Iterator[bytes]:
        first = next(records, None)
        cols, rows = row.cols, row.rows
        if first is not None and isinstance(first.event, SessionStarted):
            cols, rows = first.event.cols, first.event.rows  # the row has the last size
        yield _encode(self._header(row, cols, rows)) + b"\n"
        end_ns = 0
        for record in itertools.chain([first] if first is not None else [], records):
            event = record.event
            end_ns = record.elapsed_ns
            if isinstance(event, OutputRun):
                end_ns = event.reads[-1][0]
                yield b"".join(self._run(event))
            elif isinstance(event, Gap):
                self.lost_bytes += event.lost_bytes
            elif isinstance(event, Input):
                if event.data is None:
                    self.masked += 1
                elif text := self._text("i", event.data):
                    yield self._line(end_ns, b"i", text)
            elif isinstance(event, Resized):
                yield self._line(end_ns, b"r", f"{event.cols}x{event.rows}")
            elif isinstance(event, Marker):
                yield self._line(end_ns, b"m", event.label)
            elif isinstance(event, SessionExited):
                yield self._flush(end_ns)
                if self._version == 3:
                    yield self._line(end_ns, b"x", str(_status(event)))
        yield self._flush(end_ns)

    def _header(self, row: Session, cols: int, rows: int) -> dict[str, Any]:
        header: dict[str, Any] = {"version": self._version}
        if self._version == 3:
            header["term"] = {"cols": cols, "rows": rows}
        else:
            header.update(width=cols, height=rows)
        header["timestamp"] = row.started_at_ns // 10**9
        if self._version == 2 and row.duration_ns is not None:
            header["duration"] = row.duration_ns // 1000 / 1e6  # v3 has it in its last event
        if row.argv:
            header["command"] = (
                row.argv[2] if row.argv[:2] == ["sh", "-c"] and len(row.argv) == 3 else shlex.join(row.argv)
            )
        if row.tags.get("title"):
            header["title"] = row.tags["title"]
        return header

    def _run(self, event: OutputRun) -> Iterator[bytes]:
        for elapsed_ns, lines in event.reads:
            text = self._text(event.stream, b"".join(lines))
            if text:
                yield self._line(elapsed_ns, b"o", text)

    def _text(self, source: str, data: bytes) -> str:
        data = self._held.pop(source, b"") + data
        try:
            return data.decode()
        except UnicodeDecodeError:
            text, taken = utf_8_decode(data, "replace", False)
            if taken < len(data):
                self._held[source] = data[taken:]
            self.replaced += text.count("\ufffd") - data[:taken].count(b"\xef\xbf\xbd")
            return text

    def _flush(self, elapsed_ns: int) -> bytes:
        """What began as a character and never became one."""
        held, self._held = self._held, {}
        self.replaced += len(held)
        return b"".join(self._line(elapsed_ns, b"i" if source == "i" else b"o", "\ufffd") for source in held)

    def _line(self, elapsed_ns: int, code: bytes, data: str) -> bytes:
        now_us = max(self._last_us, (elapsed_ns + 500) // 1000)
        us = now_us - self._last_us if self._version == 3 else now_us
        self._last_us = now_us
        return b'[%d.%06d, "%b", %b]\n' % (us // 1_000_000, us % 1_000_000, code, _encode(data))


def write_cast(records: Iterable[Record], row: Session, version: Literal[2, 3] = 3) -> CastWriter:
    """The cast of one session: its *records* in order (of the kinds in ``WRITTEN``), its *row* for the header."""
    return CastWriter(records, row, version)


def _status(event: SessionExited) -> int:
    """As a shell has it."""
    if event.signal is None:
        return event.exit_code or 0
    try:
        return 128 + signal.Signals[event.signal].value
    except KeyError:
        return 128  # of another system
