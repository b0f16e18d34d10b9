"""Bytes of one stream -> terminal rows, the lines that rules see and ``export --format text`` writes. Pure.

A row is what one terminal row of unlimited width would show (contract, section 7). On it act CR, BS, TAB and CSI
``C D G ` a @ P X K``. LF, VT, FF, IND, NEL, RI, a cursor move to another row, ED, a switch of the alternate screen,
RIS, 16 KiB and the end of the session end it. Every other sequence vanishes. The rows, their numbers and their ends
do not depend on how the bytes were cut.

What the contract leaves open, decided here:
    Column      After LF, NEL, CSI E F, RIS and a switch of screens the next row begins at column 0: recorded output has
                CR LF, or stands in a pipe, where LF alone begins a line. After VT, FF, IND, RI, ED and CSI A B d e the
                column stays, after CSI H f it is the one they name: the cells before it are spaces, as on a screen.
    Width       Unicode's East Asian Width W and F take two cells; overwriting one half blanks the other. Marks and
                format characters (Mn, Me, Cf) join the cell before the cursor, and vanish where there is none.
    16 KiB      of the row's text in UTF-8. The character that would pass them begins the next row.
    C1          U+0080 to U+009F, encoded, are the controls they name, as in xterm and VTE. Raw bytes are invalid UTF-8.
    Strings     OSC ends at BEL or ST; DCS, SOS, PM, APC and the title string of screen and tmux (ESC k) at ST; CAN, SUB
                and any ESC abort them. Private and malformed CSI vanish, but for ``CSI ? J`` and ``CSI ? K``.
    Vanishing   is literal: REP (CSI b), CHT, CBT, DECCOLM, saved cursors, insert mode, margins and tab stops are not in
                the contract's list and leave no trace.

Speed, CPU time on the 2 shared cores of DESIGN.md, fed 64 KiB at a time: 2.9 M rows/s of 57 plain bytes (``split``,
``decode`` and ``Row``, one line after another: 2.6 M), 0.5-0.7 M with two coloured words and CR LF, 0.2-0.4 M updates/s
of a progress bar. A line a feed: 0.5 M plain, 0.3 M coloured. Most lines hold nothing that acts, so a whole block of
them is stripped and decoded at once, and only what remains is taken apart.
"""

from __future__ import annotations

import io
import re
import unicodedata
from codecs import utf_8_decode
from itertools import accumulate, count, islice, repeat

import msgspec

MAX_ROW_BYTES = 16 << 10
TAB_CELLS = 8
MAX_PARAMETER_BYTES = 64  # what cannot be a cursor move any more is not kept
MAX_NUMBER = 1_000_000  # of cells: any row is cut long before
MAX_COLUMN = 1_000  # kept from one row to the next: a staircase would make 16 KiB of every two bytes
BLOCK_BYTES = 4 << 10  # tried as one before it is taken apart: a bare CR in it costs its neighbours their speed

Cell = str | None  # a character with its marks; "": the second half of a wide one; None: erased, or never written

GROUND, ESCAPE, INTERMEDIATE, CSI, STRING, OSC = range(6)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row that has ended.

    text: what it showed, without LF. index: 1 for the first of its stream, then without gaps.
    end: the offset, in the stream's bytes, behind the byte that ended it: the feed that holds ``end - 1`` ended it.
    ended_by_lf: or by something else. cut: it had 16 KiB, and the rest is the next row.
    """

    text: str
    index: int
    end: int
    ended_by_lf: bool
    cut: bool = False


class _Widths(dict[str, int]):
    """Cells that a character takes: 0, 1 or 2. From Python's Unicode tables, looked up once each."""

    def __missing__(self, character: str) -> int:
        category = unicodedata.category(character)
        if category in ("Mn", "Me", "Zl", "Zp") or (category == "Cf" and character != "\u00ad"):
            width = 0
        elif "\u1160" <= character <= "\u11ff":
            width = 0  # Hangul vowels and finals, which join the initial before them
        else:
            width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        self[character] = width
        return width


WIDTHS = _Widths()

# What may stand in a line that needs no cells, when CR LF is LF. NUL and DEL are placeholders: see Rows._plain.
PLAIN = bytes({*range(0x20, 0x100), 0x00, 0x09, 0x0A})
# Sequences that vanish without a trace, at the end of a row too: erasing to the right of the cursor is nothing there.
VANISHING = re.compile(
    rb"\x1b(?:\[(?:[0-9;:]*m|0?K|\?(?:1|7|12|25|1004|2004|2026)[hl])"
    rb"|\][^\0\x07\x18\x1a\x1b\n\xc2]*(?:\x07|\x1b\\)|\(B)"
)
FORWARD = b"\x1b[1C"  # Claude Code's space
ENCODED_C1 = re.compile(rb"\xc2[\x80-\x9f]")
# The bytes of one character, or those that become one U+FFFD (Unicode 3.9, "maximal subparts").
CHARACTER = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]?"
    rb"|(?:\xe0[\xa0-\xbf]|\xed[\x80-\x9f]|[\xe1-\xec\xee\xef][\x80-\xbf])[\x80-\xbf]?"
    rb"|(?:\xf0[\x90-\xbf]|\xf4[\x80-\x8f]|[\xf1-\xf3][\x80-\xbf])(?:[\x80-\xbf][\x80-\xbf]?)?"
    rb"|[\x00-\xff]"
)
# What is taken at once in the ground state. Colours are passed over; CR and EL in either order leave nothing of a row.
TOKEN = re.compile(
    rb"(?:\x1b\[[0-9;:]*m)*"
    rb"(?:([\x20-\x7e]+)|((?:[\x20-\x7e\x80-\xc1\xc3-\xff]+|\xc2(?![\x80-\x9f]))+)|(\r{0,3}\n)"
    rb"|(\r\x1b\[[02]?K|\x1b\[2K\r)|\x1b\[([\x20-\x3f]*)([\x40-\x7e])|\xc2([\x80-\x9f])|([^\x1b]))?"
)
ASCII_TEXT, TEXT, LINE_END, RESTART, C1, CONTROL = 1, 2, 3, 4, 7, 8  # of its groups
PLAIN_LINE = re.compile(rb"([\x20-\x7e]*)\r{0,3}\n")
STRING_ENDS = {STRING: re.compile(rb"[\x18\x1a\x1b]|\xc2\x9c"), OSC: re.compile(rb"[\x07\x18\x1a\x1b]|\xc2\x9c")}
NUMBERS = re.compile(rb"[0-9;]*")
ACTING = frozenset(b"ABCDEFGHJKPX@`adefhl")
ALTERNATE_SCREEN = frozenset((b"47", b"1047", b"1049"))


class Rows:
    """The rows of one stream of one session, fed in order. ``open_text`` is the row so far.

    An open row is *plain* while everything was written at its end: ``_parts`` is its text, NUL a cell never written.
    The first thing that goes back makes ``_cells`` of it.
    """

    __slots__ = (
        "_ascii",
        "_at",
        "_cells",
        "_fed",
        "_held",
        "_index",
        "_parameters",
        "_parts",
        "_rows",
        "_size",
        "_state",
    )
    _at: int  # the cursor; means nothing while the row is plain
    _cells: list[Cell] | None  # its last one is never None
    _parts: list[str]
    _size: int  # bytes of the row's text; while it is plain, with the cells passed by at its end
    _ascii: bool  # a cell is a character is a byte

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._fed = 0  # bytes
        self._held = b""  # the beginning of a character
        self._state = GROUND
        self._parameters = bytearray()
        self._index = 0
        self._begin_row(0)

    # -- the way in ------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Row]:
        """The rows that ended within *data*."""
        at = self._fed - len(self._held)
        self._fed += len(data)
        if self._held:
            data = self._held + data
            self._held = b""
        self._rows = []
        whole = data.rfind(b"\n") + 1
        if whole:
            if data.find(b"\n") == whole - 1:
                if not self._line(data[:whole], at):
                    self._scan(data[:whole], at)
            else:
                self._lines(data[:whole], at)
            if whole == len(data):
                return self._rows
            data, at = data[whole:], at + whole
        self._scan(data, at)
        return self._rows

    def end(self) -> list[Row]:
        """The session's end: the open row, if anything stands in it. Nothing may be fed after it."""
        self._rows = []
        if self._held and self._state == GROUND:
            self._put_bytes(self._held, self._fed - len(self._held), final=True)
            self._held = b""
        self._end_row(self._fed)
        return self._rows

    @property
    def open_text(self) -> str:
        """The text of the row that has not ended yet."""
        if self._cells is None:
            text = "".join(self._parts)
            return text.rstrip("\0").replace("\0", " ") if "\0" in text else text
        return "".join([" " if cell is None else cell for cell in self._cells])

    @property
    def index(self) -> int:
        """The number of the last row that ended."""
        return self._index

    # -- whole lines at once ---------------------------------------------------------------------------------------

    def _lines(self, data: bytes, at: int) -> None:
        """Feed *data*, which ends in LF: all of it at once, else its blocks, else its lines, else its bytes."""
        if b"\x1b" not in data and self._plain(data, at):
            return
        begin = 0
        while begin < len(data):
            end = data.rfind(b"\n", begin, begin + BLOCK_BYTES) + 1 or data.index(b"\n", begin) + 1
            block = data[begin:end]
            if not self._plain(block, at + begin):
                for line in io.BytesIO(block).readlines():
                    if not self._line(line, at + begin):
                        self._scan(line, at + begin)
                    begin += len(line)
            begin = end

    def _line(self, line: bytes, at: int) -> bool:
        """As ``_plain``, for one line of ASCII: what that does for many costs too much for one."""
        if self._state != GROUND or self._cells is not None:
            return False
        match = PLAIN_LINE.fullmatch(VANISHING.sub(b"", line) if b"\x1b" in line else line)
        if match is None or self._size + len(line) > MAX_ROW_BYTES:
            return False
        if self._size:
            self._parts.append(match[1].decode())
            self._end_row(at + len(line), by_lf=True)
        else:
            self._index += 1
            self._rows.append(Row(match[1].decode(), self._index, at + len(line), True))
        return True

    def _plain(self, data: bytes, at: int) -> bool:
        """Feed *data*, whole lines that need no cells; False, and nothing done: they do, or something is open.

        A sequence between bytes of one character splits it. So where there are such bytes, DEL, which vanishes as
        well, marks its place until they are decoded. NUL is a cell passed by without writing.
        """
        if self._state != GROUND or self._cells is not None:
            return False
        clean = data
        ascii_ = data.isascii()
        gaps = False
        if b"\x1b" in data:
            if FORWARD in data and b"\0" not in data:
                clean = data.replace(FORWARD, b"\0")
                gaps = True
            clean = VANISHING.sub(b"" if ascii_ else b"\x7f", clean)
            if b"\x1b" in clean:
                return False
        if b"\r" in clean:
            clean = clean.replace(b"\r\n", b"\n")
            if b"\r" in clean:
                clean = clean.replace(b"\r\n", b"\n")
        if clean.translate(None, PLAIN) or (not gaps and b"\0" in clean):
            return False
        lines = io.BytesIO(data).readlines()
        longest = self._size + (max(map(len, lines)) if len(data) > MAX_ROW_BYTES // TAB_CELLS else len(data))
        tabs = b"\t" in clean
        if longest * (TAB_CELLS if tabs else 1) > MAX_ROW_BYTES:
            return False
        try:
            text = clean.decode()
        except UnicodeDecodeError:
            if longest * 3 > MAX_ROW_BYTES:
                return False
            text = clean.decode("utf-8", "replace")
        if b"\x7f" in clean:
            text = text.replace("\x7f", "")
        texts = text.split("\n")
        texts.pop()
        if not ascii_:
            if ENCODED_C1.search(clean):
                return False
            for line in texts if self._size == 0 else texts[1:]:
                if line[:1] > "\x7f" and WIDTHS[line[0]] == 0:
                    return False  # a mark without a cell
        if self._size:
            before = "".join(self._parts)
            texts[0] = before + texts[0]
            gaps = gaps or "\0" in before
        if tabs:
            if not (ascii_ and self._ascii):
                return False
            texts = [line.rstrip("\0\t").expandtabs(TAB_CELLS) if "\t" in line else line for line in texts]
        if gaps:
            texts = [line.rstrip("\0").replace("\0", " ") if "\0" in line else line for line in texts]
        ends = islice(accumulate(map(len, lines), initial=at), 1, None)
        self._rows += map(Row, texts, count(self._index + 1), ends, repeat(True))
        self._index += len(texts)
        self._begin_row(0)
        return True

    # -- one token after another -----------------------------------------------------------------------------------

    def _scan(self, data: bytes, at: int) -> None:
        i = 0
        size = len(data)
        match_token = TOKEN.match
        while i < size:
            if self._state != GROUND:
                i = self._go_on(data, i, at)
                continue
            token = match_token(data, i)
            assert token is not None  # it matches nothing, too
            begin, i = i, token.end()
            kind = token.lastindex
            if kind == ASCII_TEXT:
                run = token[ASCII_TEXT]
                if self._cells is None and self._size + len(run) <= MAX_ROW_BYTES:
                    self._parts.append(run.decode())
                    self._size += len(run)
                else:
                    self._put_text(run.decode(), run, at + i - len(run))
            elif kind == LINE_END:
                self._end_row(at + i, by_lf=True)
            elif kind == TEXT:
                run = token[TEXT]
                taken = self._put_bytes(run, at + i - len(run), final=i < size)
                self._held = run[taken:]
            elif kind == RESTART:
                self._begin_row(0)
            elif kind == CONTROL:
                self._control(data[i - 1], at + i)
            elif kind == C1:
                self._escape(data[i - 1] - 0x40, at + i)
            elif kind is not None:
                parameters, final = token.group(5, 6)
                self._csi(parameters, final[0], at + i)
            elif i == begin:
                self._state = ESCAPE
                i += 1

    def _put_bytes(self, run: bytes, at: int, *, final: bool) -> int:
        text, taken = utf_8_decode(run, "replace", final)
        self._put_text(text, run[:taken], at)
        return taken

    def _go_on(self, data: bytes, i: int, at: int) -> int:
        """Take bytes of an unfinished sequence from *i*; where to go on."""
        if self._state in STRING_ENDS:
            end = STRING_ENDS[self._state].search(data, i)
            if end is None:
                self._held = b"\xc2" if data.endswith(b"\xc2", i) else b""
                return len(data)
            self._state = ESCAPE if end.group() == b"\x1b" else GROUND
            return end.end()
        byte = data[i]
        i += 1
        if byte >= 0x80:
            self._state = GROUND  # no sequence has such a byte: it is text again
            return i - 1
        if byte < 0x20:
            if byte == 0x1B:
                self._state = ESCAPE
            elif byte in (0x18, 0x1A):
                self._state = GROUND
            else:
                self._control(byte, at + i)  # a control inside a sequence acts at once
        elif byte == 0x7F:
            pass
        elif self._state == ESCAPE:
            self._escape(byte, at + i)
        elif self._state == INTERMEDIATE:
            if byte >= 0x30:
                self._state = GROUND
        elif byte < 0x40:
            if len(self._parameters) <= MAX_PARAMETER_BYTES:
                self._parameters.append(byte)
        else:
            self._state = GROUND
            self._csi(bytes(self._parameters), byte, at + i)
        return i

    def _escape(self, byte: int, at: int) -> None:
        """ESC and *byte*, or the C1 control that is short for it."""
        self._state = GROUND
        if byte < 0x30:
            self._state = INTERMEDIATE
        elif byte == 0x5B:  # [
            self._state = CSI
            self._parameters.clear()
        elif byte == 0x5D:  # ]
            self._state = OSC
        elif byte in b"PX^_k":
            self._state = STRING
        elif byte in b"DM":  # IND, RI
            self._end_row(at, column=self._column())
        elif byte in b"Ec":  # NEL, RIS
            self._end_row(at)

    def _control(self, byte: int, at: int) -> None:
        if byte == 0x0A:
            self._end_row(at, by_lf=True)
        elif byte in (0x0B, 0x0C):  # VT, FF
            self._end_row(at, column=self._column())
        elif byte == 0x0D:
            if self._cells is not None or self._size:
                self._make_cells()
                self._at = 0
                self._plain_again()
        elif byte == 0x08:
            if self._cells is not None or self._size:
                self._make_cells()
                self._at = max(0, self._at - 1)
        elif byte == 0x09:
            column = self._column()
            self._forward(TAB_CELLS - column % TAB_CELLS)

    def _csi(self, parameters: bytes, final: int, at: int) -> None:
        if final not in ACTING or len(parameters) > MAX_PARAMETER_BYTES:
            return
        if final in b"hl":
            if parameters.startswith(b"?") and not ALTERNATE_SCREEN.isdisjoint(parameters[1:].split(b";")):
                self._end_row(at)
            return
        if final in b"JK" and parameters.startswith(b"?"):
            parameters = parameters[1:]
        if not NUMBERS.fullmatch(parameters):
            return
        if final in b"AJBde":
            self._end_row(at, column=self._column())
        elif final in b"EF":
            self._end_row(at)
        elif final in b"Hf":
            self._end_row(at, column=_number(parameters, 1) - 1)
        elif final in b"Ca":
            self._forward(_number(parameters))
        elif final in b"G`":
            self._make_cells()
            self._at = _number(parameters) - 1
        elif final == 0x44:  # D
            self._make_cells()
            self._at = max(0, self._at - _number(parameters))
        elif final == 0x4B:  # K
            self._erase_line(parameters)
        elif self._cells is not None:  # a plain row has nothing to the right of the cursor
            if final == 0x50:  # P
                self._delete(_number(parameters))
            elif final == 0x58:  # X
                self._erase(self._at, self._at + _number(parameters))
            else:
                self._insert(_number(parameters), at)

    # -- the open row ----------------------------------------------------------------------------------------------

    def _begin_row(self, column: int) -> None:
        self._parts = []
        self._cells = [] if column else None
        self._at = column
        self._size = 0
        self._ascii = True

    def _end_row(self, end: int, *, by_lf: bool = False, cut: bool = False, column: int = 0) -> None:
        """The row ended with the byte before *end*; the next one begins with the cursor at *column*."""
        text = self.open_text
        if text or by_lf:
            self._index += 1
            self._rows.append(Row(text, self._index, end, by_lf, cut))
        self._begin_row(min(column, MAX_COLUMN))

    def _column(self) -> int:
        if self._cells is None:
            if self._ascii:
                return self._size
            self._make_cells()
        return self._at

    def _make_cells(self) -> None:
        """No longer plain."""
        if self._cells is not None:
            return
        text = "".join(self._parts)
        cells: list[Cell] = []
        if self._ascii:
            cells = list(text)
        else:
            for character in text:
                width = WIDTHS[character]
                if width:
                    cells.append(character)
                    if width == 2:
                        cells.append("")
                else:
                    last = len(cells) - 1 if cells[-1] else len(cells) - 2
                    cells[last] = (" " if cells[last] == "\0" else cells[last] or "") + character
        self._at = len(cells)
        if "\0" in text:
            cells = [None if cell == "\0" else cell for cell in cells]
        self._cells = cells
        self._strip()

    def _plain_again(self) -> None:
        if self._cells == [] and not self._at:
            self._begin_row(0)

    def _strip(self) -> None:
        """What is erased at the end is gone."""
        cells = self._cells
        assert cells is not None
        while cells and cells[-1] is None:
            cells.pop()
            self._size -= 1

    def _forward(self, cells: int) -> None:
        if self._cells is None:
            if self._size + cells <= MAX_ROW_BYTES:
                self._parts.append("\0" * cells)
                self._size += cells
                return
            self._make_cells()
        self._at += cells

    def _put_text(self, text: str, run: bytes, at: int) -> None:
        """Write *text*, which *run* at offset *at* is."""
        ascii_ = len(text) == len(run) and text.isascii()
        if self._cells is None:
            if not ascii_ and not self._size:
                text = _without_lone_marks(text)
            size = len(run) if ascii_ else len(text.encode())
            if self._size + size <= MAX_ROW_BYTES:
                self._parts.append(text)
                self._size += size
                self._ascii = self._ascii and ascii_
                return
            self._make_cells()
        if ascii_ and self._ascii:
            self._put_ascii(text, at)
        else:
            self._put_characters(text, run, at)

    def _put_ascii(self, text: str, at: int) -> None:
        cells = self._cells
        assert cells is not None
        fitting = text[: max(0, MAX_ROW_BYTES - self._at)]
        if fitting:
            cells.extend(repeat(None, self._at - len(cells)))
            cells[self._at : self._at + len(fitting)] = fitting
            self._at += len(fitting)
            self._size = len(cells)
        begin = len(fitting)
        if begin == len(text):
            return
        self._end_row(at + begin + 1, cut=True)
        while len(text) - begin > MAX_ROW_BYTES:
            self._parts.append(text[begin : begin + MAX_ROW_BYTES])
            begin += MAX_ROW_BYTES
            self._end_row(at + begin + 1, cut=True)
        self._parts.append(text[begin:])
        self._size = len(text) - begin

    def _put_characters(self, text: str, run: bytes, at: int) -> None:
        self._ascii = False
        ends: list[int] = []
        for i, character in enumerate(text):
            if not self._put(character):
                ends = ends or [found.end() for found in CHARACTER.finditer(run)]
                self._end_row(at + ends[i - len(text)], cut=True)
                self._cells = []
                self._ascii = False
                self._put(character)

    def _put(self, character: str) -> bool:
        """Write one character at the cursor; False, and nothing done: it does not fit."""
        cells = self._cells
        assert cells is not None
        column, width, size = self._at, WIDTHS[character], len(cells)
        bytes_ = _bytes(character)
        if width == 0:
            if column == 0:
                return True
            column -= 1
            if self._size + bytes_ + max(0, column + 1 - size) > MAX_ROW_BYTES:
                return False
            if column >= size:
                cells.extend(repeat(None, column + 1 - size))
                bytes_ += column + 1 - size
            elif cells[column] == "":
                column -= 1
            cells[column] = (cells[column] or " ") + character
            self._size += bytes_
            return True
        end = column + width
        bytes_ += max(0, column - size)
        bytes_ -= _bytes_of(cells[column:end])
        if column < size and cells[column] == "":
            bytes_ += 1 - _bytes(cells[column - 1])  # its first half is blank now
        if end < size and cells[end] == "":
            bytes_ += 1
        if self._size + bytes_ > MAX_ROW_BYTES:
            return False
        if column > size:
            cells.extend(repeat(None, column - size))
        self._split(column)
        self._split(end)
        cells[column:end] = [character, ""][:width]
        self._at = end
        self._size += bytes_
        self._strip()
        return True

    def _split(self, column: int) -> None:
        """Blank the wide character that *column* would cut in two. The size is the caller's matter."""
        cells = self._cells
        assert cells is not None
        if column < len(cells) and cells[column] == "":
            cells[column - 1] = cells[column] = None

    def _erase_line(self, parameters: bytes) -> None:
        mode = _number(parameters, default=0)
        if mode == 0:
            if self._cells is not None:
                self._erase(self._at, len(self._cells))
        elif mode == 1:
            self._make_cells()
            self._erase(0, self._at + 1)
        elif mode == 2:
            self._make_cells()
            self._cells, self._size = [], 0
        self._plain_again()

    def _erase(self, begin: int, end: int) -> None:
        cells = self._cells
        assert cells is not None
        end = min(end, len(cells))
        if begin < end:
            self._blank_halves(begin, end)
            self._size += end - begin - _bytes_of(cells[begin:end])
            cells[begin:end] = repeat(None, end - begin)
            self._strip()

    def _delete(self, number: int) -> None:
        cells = self._cells
        assert cells is not None
        begin, end = self._at, min(self._at + number, len(cells))
        if begin < end:
            self._blank_halves(begin, end)
            self._size -= _bytes_of(cells[begin:end])
            del cells[begin:end]
            self._strip()

    def _insert(self, number: int, at: int) -> None:
        cells = self._cells
        assert cells is not None
        if self._at >= len(cells):
            return
        if self._size + number > MAX_ROW_BYTES:
            self._end_row(at, cut=True)
            return
        self._blank_halves(self._at, self._at)
        cells[self._at : self._at] = repeat(None, number)
        self._size += number
        self._strip()

    def _blank_halves(self, begin: int, end: int) -> None:
        """Blank the wide characters that *begin* and *end* cut in two."""
        cells = self._cells
        assert cells is not None
        for column in (begin, end):
            if column < len(cells) and cells[column] == "":
                self._size += 2 - _bytes(cells[column - 1])
                self._split(column)


def _number(parameters: bytes, place: int = 0, default: int = 1) -> int:
    """The number at *place*; where it is absent, or 0 means as much, *default*."""
    fields = parameters.split(b";", place + 1)
    digits = fields[place] if place < len(fields) else b""
    if len(digits) > 7:
        return MAX_NUMBER
    return min(int(digits or 0), MAX_NUMBER) or default


def _without_lone_marks(text: str) -> str:
    begin = 0
    while begin < len(text) and WIDTHS[text[begin]] == 0:
        begin += 1
    return text[begin:]


def _bytes_of(cells: list[Cell]) -> int:
    return cells.count(None) + len("".join(filter(None, cells)).encode())


def _bytes(cell: Cell) -> int:
    """Of a cell's text in UTF-8."""
    if cell is None:
        return 1
    return len(cell) if cell.isascii() else len(cell.encode())
