"""Rows against the contract's words, against any cutting of the bytes, against a terminal that is not ours (pyte), and
against what others say the corpus' streams show."""

from __future__ import annotations

import html
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.rows import MAX_ROW_BYTES, Row, Rows

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no corpus in {CORPUS}")


def rows_of(*feeds: bytes) -> list[Row]:
    rows = Rows()
    return [row for data in feeds for row in rows.feed(data)] + rows.end()


def texts_of(*feeds: bytes) -> list[str]:
    return [row.text for row in rows_of(*feeds)]


# -- the contract, piece by piece ----------------------------------------------------------------------------------

ON_THE_ROW = [
    ("a\\n", b"one\ntwo\r\nthree\r\r\n", ["one", "two", "three"]),
    ("an unterminated end", b"one\ntwo", ["one", "two"]),
    ("CR overwrites", b"50%\r100%\n", ["100%"]),
    ("CR overwrites only what is written", b"downloading\rdone\n", ["doneloading"]),
    ("CR LF after CR", b"abc\r\rX\r\n", ["Xbc"]),
    ("BS", b"abx\bc\n", ["abc"]),
    ("BS stops at the first cell", b"a\b\b\b\bb\n", ["b"]),
    ("spinner", b"|\b/\b-\b\\\bok\n", ["ok"]),
    ("TAB", b"a\tb\t\tc\n", ["a       b               c"]),
    ("TAB passes over, and does not erase", b"abcdefghij\r\tX\n", ["abcdefghXj"]),
    ("TAB at the end leaves nothing", b"a\t\n", ["a"]),
    ("written spaces stay", b"a  \t\n", ["a  "]),
    ("only spaces", b"   \n", ["   "]),
    ("CSI C writes nothing", b"a\x1b[1Cb\x1b[3Cc\x1b[Cd\n", ["a b   c d"]),
    ("CSI C at the end leaves nothing", b"a\x1b[5C\n", ["a"]),
    ("CSI 0 C is CSI C", b"a\x1b[0Cb\n", ["a b"]),
    ("CSI a", b"a\x1b[2ab\n", ["a  b"]),
    ("CSI D", b"abc\x1b[2DX\n", ["aXc"]),
    ("CSI D stops at the first cell", b"abc\x1b[99DX\n", ["Xbc"]),
    ("CSI G", b"abc\x1b[2GX\x1b[6GY\n", ["aXc  Y"]),
    ("CSI `", b"abc\x1b[`X\n", ["Xbc"]),
    ("CSI @", b"abc\r\x1b[2@X\n", ["X abc"]),
    ("CSI @ beyond the end", b"abc\x1b[2@X\n", ["abcX"]),
    ("CSI P", b"abcdef\r\x1b[2P\n", ["cdef"]),
    ("CSI P more than there is", b"abcdef\x1b[4D\x1b[9P\n", ["ab"]),
    ("CSI X", b"abcdef\r\x1b[2X\n", ["  cdef"]),
    ("CSI X at the end is gone", b"abcdef\x1b[2D\x1b[2X\n", ["abcd"]),
    ("CSI K", b"abcdef\x1b[3D\x1b[K\n", ["abc"]),
    ("CSI 1 K", b"abcdef\x1b[3D\x1b[1K\n", ["    ef"]),
    ("CSI 2 K", b"abcdef\x1b[2Kx\n", ["      x"]),
    ("CSI ? K", b"abcdef\r\x1b[?Kx\n", ["x"]),
    ("CR and EL", b"50%\r\x1b[K100%\r\x1b[2Kdone\x1b[2K\rok\n", ["ok"]),
    ("erased spaces are gone, written ones before them are not", b"ab  cd\x1b[2D\x1b[K\n", ["ab  "]),
    ("colours", b"\x1b[1;31mred\x1b[0m \x1b[38;2;1;2;3mrgb\x1b[m\x1b[4:3mcurly\n", ["red rgbcurly"]),
    ("modes", b"\x1b[?25l\x1b[?2004ha\x1b[?2026h\x1b[?1000;1006hb\n", ["ab"]),
    ("OSC, both ends", b"\x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", ["alink"]),
    ("OSC with text beyond ASCII", "\x1b]0;a · ✳ b\x07ok\n".encode(), ["ok"]),
    ("OSC ended by an encoded ST", b"\x1b]0;a\xc2\x9cok\n", ["ok"]),
    ("a string may hold LF", b"\x1bPq#0\n-\n\x1b\\ok\n", ["ok"]),
    ("DCS APC PM SOS", b"\x1bP1$r\x1b\\a\x1b_Gi=1\x1b\\b\x1b^x\x1b\\c\x1bXy\x1b\\d\n", ["abcd"]),
    ("BEL does not end DCS", b"\x1bPa\x07b\x1b\\c\n", ["c"]),
    ("the title of screen and tmux", b"\x1bkbash\x1b\\$ \n", ["$ "]),
    ("an ESC ends a string", b"\x1b]0;title\x1b[31mred\n", ["red"]),
    ("a sequence inside a string ends it", b"\x1b]0;a\x1b[0mb\x07c\x1b]0;a\x1b[1Cb\x07c\n", ["bc bc"]),
    ("a sequence inside a sequence ends it", b"\x1b[3\x1b[0m1m\x1b\x1b[0m[1Cx\x1b[3\x1b[1C1m\n", ["1m[1Cx 1m"]),
    ("CAN and SUB end a sequence", b"\x1b[3\x18a\x1b]0;\x1ab\n", ["ab"]),
    ("charsets, keypad, DECALN", b"\x1b(B\x1b)0\x1b=\x1b>\x1b#8\x1b%Ga\n", ["a"]),
    ("controls of no effect", b"a\0b\x07c\x0e\x0f\x05d\x7fe\n", ["abcde"]),
    ("a control inside a sequence acts", b"ab\x1b[\b31mc\n", ["ac"]),
    ("DEL inside a sequence", b"\x1b[3\x7f1mc\n", ["c"]),
    ("private and malformed CSI vanish", b"a\x1b[>1Cb\x1b[?5Gc\x1b[1 @d\x1b[1:2Ge\n", ["abcde"]),
    ("REP, CHT, CBT vanish", b"a\x1b[3bb\x1b[Ic\x1b[Zd\n", ["abcd"]),
    ("saved cursors vanish", b"ab\x1b7c\x1b8d\x1b[se\x1b[uf\n", ["abcdef"]),
    ("text in an unfinished sequence is text", "\x1b[31é\n".encode(), ["é"]),
    ("UTF-8", "żółć → ✓\n".encode(), ["żółć → ✓"]),
    ("invalid bytes", b"a\xff\xfeb\xe4\xb8c\xc3\n", ["a��b�c�"]),
    ("a sequence splits a character", b"\xe4\xb8\x1b[0m\xad\n", ["��"]),
    ("a wide character takes two cells", "中文\x1b[3GX\n".encode(), ["中X"]),
    ("half of a wide character is none", "中文\x1b[2GX\n".encode(), [" X文"]),
    ("erasing half", "中文\x1b[2G\x1b[Xx\n".encode(), [" x文"]),
    ("deleting half", "中文\x1b[2G\x1b[P\n".encode(), [" 文"]),
    ("inserting into the middle of one", "中文\x1b[2G\x1b[@x\n".encode(), [" x 文"]),
    ("overwriting with a wide one", "abcd\x1b[2G中\n".encode(), ["a中d"]),
    ("overwriting the beginning of one", "中b\rx\n".encode(), ["x b"]),
    ("a mark joins its cell", "e\u0301x\bX\n".encode(), ["e\u0301X"]),
    ("a mark joins a wide cell", "中\u0301x\x1b[3GX\n".encode(), ["中\u0301X"]),
    ("a mark is overwritten with its cell", "e\u0301x\rab\n".encode(), ["ab"]),
    ("a mark on a cell never written", "\x1b[2C\u0301a\n".encode(), ["  \u0301a"]),
    ("a mark without a cell", "\u0301a\r\u0301b\n\ufeffc\n".encode(), ["b", "c"]),
    ("joined emoji", "👩\u200d💻 x\x1b[6GX\n".encode(), ["👩\u200d💻 X"]),
    ("tabs count cells", "中\tx\n".encode(), ["中      x"]),
    ("C1, encoded", "a\u009b31mb\u009b2Gc\u0085d\n".encode(), ["ac", "d"]),
    ("C1 as raw bytes is no UTF-8", b"a\x9b31m\n", ["a�31m"]),
]


@pytest.mark.parametrize(("data", "rows"), [case[1:] for case in ON_THE_ROW], ids=[case[0] for case in ON_THE_ROW])
def test_what_acts_on_a_row(data: bytes, rows: list[str]) -> None:
    assert texts_of(data) == rows
    assert texts_of(*(bytes([byte]) for byte in data)) == rows


# The row begins "ab"; after the sequence "cd" is written.
ENDS = [
    (b"\n", ["ab", "cd"]),
    (b"\x0b", ["ab", "  cd"]),  # VT, FF, IND, RI keep the column, as a terminal does
    (b"\x0c", ["ab", "  cd"]),
    (b"\x1bD", ["ab", "  cd"]),
    (b"\x1bM", ["ab", "  cd"]),
    (b"\xc2\x84", ["ab", "  cd"]),
    (b"\xc2\x8d", ["ab", "  cd"]),
    (b"\x1bE", ["ab", "cd"]),
    (b"\x1b[A", ["ab", "  cd"]),
    (b"\x1b[2B", ["ab", "  cd"]),
    (b"\x1b[E", ["ab", "cd"]),
    (b"\x1b[2F", ["ab", "cd"]),
    (b"\x1b[H", ["ab", "cd"]),
    (b"\x1b[3;4H", ["ab", "   cd"]),
    (b"\x1b[7;2f", ["ab", " cd"]),
    (b"\x1b[5d", ["ab", "  cd"]),
    (b"\x1b[5e", ["ab", "  cd"]),
    (b"\x1b[J", ["ab", "  cd"]),
    (b"\x1b[2J", ["ab", "  cd"]),
    (b"\x1b[?J", ["ab", "  cd"]),
    (b"\x1b[?1049h", ["ab", "cd"]),
    (b"\x1b[?1049l", ["ab", "cd"]),
    (b"\x1b[?47h", ["ab", "cd"]),
    (b"\x1b[?25;1047h", ["ab", "cd"]),
    (b"\x1bc", ["ab", "cd"]),
]


@pytest.mark.parametrize(("sequence", "rows"), ENDS)
def test_what_ends_a_row(sequence: bytes, rows: list[str]) -> None:
    found = rows_of(b"ab" + sequence + b"cd")

    assert [row.text for row in found] == rows
    assert [row.ended_by_lf for row in found] == [sequence == b"\n", False]
    assert [row.end for row in found] == [2 + len(sequence), 4 + len(sequence)]


@pytest.mark.parametrize("sequence", [b"\x1b[1048h", b"\x1b[?1048h", b"\x1b[4h", b"\x1b[S", b"\x1b[L", b"\x1b[1;5r"])
def test_what_does_not_end_a_row(sequence: bytes) -> None:
    assert texts_of(b"ab" + sequence + b"cd") == ["abcd"]


def test_an_empty_row_counts_only_when_lf_ended_it() -> None:
    assert [(row.text, row.index) for row in rows_of(b"\n\n\x1b[H\x1b[2J\x1b[A\x0b\x1bc\x1b[?1049h\n")] == [
        ("", 1),
        ("", 2),
        ("", 3),
    ]
    assert rows_of(b"a\n\x1b[31m\x1b]0;x\x07") == [Row("a", 1, 2, True)]


def test_a_row_says_with_which_byte_it_ended() -> None:
    data = "one\r\n\x1b[31mżółć\x1b[0m\n中\x1b[A\x1b[2Krest".encode()

    ends = {row.text: row.end for row in rows_of(data)}

    assert data[: ends["one"]].endswith(b"one\r\n")
    assert data[: ends["żółć"]].endswith(b"\x1b[0m\n")
    assert data[: ends["中"]].endswith(b"\x1b[A")
    assert ends["  rest"] == len(data)


def test_the_open_row_can_be_seen() -> None:
    rows = Rows()
    rows.feed(b"done\nProceed?\x1b[1C[Y/n] \x1b[K\x1b[3C")

    assert (rows.open_text, rows.index) == ("Proceed? [Y/n] ", 1)

    rows.feed(b"\rX")
    assert rows.open_text == "Xroceed? [Y/n] "


# -- 16 KiB --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_a_row_has_16_kib_at_the_most(size: int) -> None:
    """The rest begins a new row, and a row that fits is not cut."""
    full = b"x" * MAX_ROW_BYTES
    found = rows_of(full * size + b"end\n")

    assert [len(row.text) for row in found] == [MAX_ROW_BYTES] * size + [3]
    assert [row.cut for row in found] == [True] * size + [False]
    assert [row.end for row in found[:-1]] == [MAX_ROW_BYTES * (n + 1) + 1 for n in range(size)]
    assert [row.cut for row in rows_of(full + b"\n")] == [False]


def test_the_16_kib_are_bytes() -> None:
    found = rows_of("中".encode() * 10_000)

    assert [len(row.text.encode()) for row in found] == [16_383, 30_000 - 16_383]
    assert [row.cut for row in found] == [True, False]


@pytest.mark.parametrize(
    "data",
    [
        b"a\x1b[99999999999999999999Cb\n",  # a column that no row reaches
        b"a\x1b[16384G\x1b[16384Cb\n",
        b"ab\r\x1b[16384@c\n",
        b"a" + "\u0301".encode() * 20_000 + b"b\n",
        b"\xff" * 20_000 + b"b\n",
        b"\x1b[16384Gx\x1b[16384Gxy\n",
        b"\t" * 5_000 + b"b\n",
    ],
)
def test_nothing_makes_a_longer_row(data: bytes) -> None:
    found = rows_of(data)

    assert all(len(row.text.encode()) <= MAX_ROW_BYTES for row in found)
    assert [row.cut for row in found][-1] is False
    assert rows_of(*(bytes([byte]) for byte in data)) == found


def test_a_staircase_is_no_wider_than_a_terminal() -> None:
    assert max(map(len, texts_of(b"x\x0b" * 5_000))) == 1_001
    assert texts_of(b"\x1b[1;99999Hx") == [" " * 1_000 + "x"]


def test_progress_that_overwrites_itself_is_never_cut() -> None:
    assert texts_of(b"".join(b"\r%05d of 20000" % n for n in range(20_000)) + b"\n") == ["19999 of 20000"]


# -- any cutting ---------------------------------------------------------------------------------------------------

PIECES: Sequence[bytes] = [
    *(sequence for sequence, _ in ENDS),
    *(data for _, data, _ in ON_THE_ROW),
    *(bytes([byte]) for byte in b"\r\b\t\x1b[]P?;1K\x07\x18\x1a\x7f\xc2\x9b\xe4\xb8\xf0\x9f\xff\0"),
    b"\x1b[31m",
    b"\x1b[K",
    b"\x1b[1C",
    b"\x1b[1@",
    b"\x1b[2P",
    b"\x1b[1X",
    b"\x1b[1K",
    b"x" * 9_000,
    "中".encode() * 3_000,
    "\u0301".encode() * 3_000,
    b"\x1b[16383G",
]
streams = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=25).map(b"".join)


@settings(max_examples=400)
@given(streams, st.lists(st.integers(0, 60_000), max_size=12))
def test_the_rows_are_the_same_for_any_cutting(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    whole = rows_of(data)

    assert rows_of(*(data[begin:end] for begin, end in itertools.pairwise(places))) == whole
    if len(data) < 2_000:
        assert rows_of(*(bytes([byte]) for byte in data)) == whole
    assert [row.index for row in whole] == list(range(1, len(whole) + 1))
    assert all(len(row.text.encode()) <= MAX_ROW_BYTES for row in whole)


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Mn", "Me", "Cf", "Zl", "Zp"])), max_size=20))
def test_lines_of_text_are_their_own_rows(lines: list[str]) -> None:
    data = "".join(f"{line}\r\n" for line in lines).encode()

    assert [row.text for row in Rows().feed(data)] == [re.sub("^[\u1160-\u11ff]+", "", line) for line in lines]


# -- a terminal that is not ours -----------------------------------------------------------------------------------

# What moves between rows, or what pyte does not do: the streams are compared piece by piece between such sequences.
BETWEEN = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[ABEFHfdeJLMSTrsuIZbg]|\x1b\[\??[0-9;]*\b(?:3|4|6|47|1047|1049)[hl]|\x1b[78DMEcH#NO]"
    rb"|\x1b[PX^_k]|[\x0b\x0c\x18\x1a\x0e]|\xc2[\x80-\x9f]|\x1b\[[0-?]*[ -/]+[@-~]"
)
PIECE_BYTES, FILE_BYTES = 8_000, 12_000  # pyte does 0.9 MB/s


def stream_of(path: Path) -> bytes:
    """The output in a file of the corpus."""
    data = path.read_bytes()
    if path.suffix == ".cast":
        events = [json.loads(line) for line in data.decode().split("\n")[1:] if line.strip() and line[0] != "#"]
        return "".join(text for _, code, text in events if code == "o").encode()
    if path.name.endswith(".v1.json"):
        return "".join(text for _, text in json.loads(data)["stdout"]).encode()
    return data


def pieces_of(data: bytes) -> Iterator[bytes]:
    compared = 0
    for piece in BETWEEN.split(data):
        whole = piece[: piece.rfind(b"\n", 0, PIECE_BYTES) + 1]
        if len(whole) > 100 and compared < FILE_BYTES:
            compared += len(whole)
            yield whole


@needs_corpus
@pytest.mark.parametrize("folder", ["vt", "asciicast"])
def test_rows_are_what_another_terminal_shows(folder: str) -> None:
    pyte = pytest.importorskip("pyte", reason="pyte is the other terminal")
    compared, refused = 0, set()
    for path in sorted((CORPUS / folder).glob("*/*")):
        for piece in pieces_of(stream_of(path)):
            texts = texts_of(piece)
            mine = [unicodedata.normalize("NFC", text).rstrip() for text in texts]
            columns = 2 * max(80, *map(len, texts)) + 100  # wide characters take two, and some move on unwritten
            screen = pyte.Screen(columns, len(mine) + 1)
            try:
                pyte.ByteStream(screen).feed(piece.replace(b"\n", b"\r\n"))
            except TypeError:
                refused.add(path.name)  # pyte knows no CSI C with two parameters
                continue
            cells = ("".join(screen.buffer[y][x].data for x in range(columns)) for y in range(len(mine)))
            assert mine == [unicodedata.normalize("NFC", row).rstrip() for row in cells], path
            compared += len(mine)

    assert compared > 1_500
    assert refused <= {"t0020-CUF.in", "t0030-HPR.in"}


# -- what others say that streams show -----------------------------------------------------------------------------


def screen_text(path: Path) -> list[str]:
    """A screen of the corpus' truth, without trailing blanks."""
    text = path.read_text("utf-8")
    if path.suffix == ".rendered":
        text = html.unescape(re.sub("<[^>]*>", "", text)).replace("\xa0", " ")
    return without_blanks(text.split("\n"))


def without_blanks(rows: list[str]) -> list[str]:
    rows = [row.rstrip() for row in rows]
    while rows and not rows[-1]:
        rows.pop()
    return rows


@needs_corpus
@pytest.mark.parametrize(
    ("stream", "truth"),
    [
        ("xterm.js/t0002-history.in", "xterm.js/t0002-history.text"),
        ("xterm.js/t0002j-simple_string.in", "xterm.js/t0002j-simple_string.text"),
        ("xterm.js/t0004-LF.in", "xterm.js/t0004-LF.text"),
        ("xterm.js/t0004j-CR.in", "xterm.js/t0004j-CR.text"),
        ("xterm.js/t0014-CAN.in", "xterm.js/t0014-CAN.text"),
        ("xterm.js/t0502-bash_ls_color.in", "xterm.js/t0502-bash_ls_color.text"),
        ("terminal-to-html/control.sh.raw", "terminal-to-html/control.sh.rendered"),
        ("terminal-to-html/curl.sh.raw", "terminal-to-html/curl.sh.rendered"),
        ("terminal-to-html/pikachu.sh.raw", "terminal-to-html/pikachu.sh.rendered"),
        ("terminal-to-html/weather.sh.raw", "terminal-to-html/weather.sh.rendered"),
    ],
)
def test_rows_are_what_the_truth_says(stream: str, truth: str) -> None:
    """The streams that neither address the cursor nor wrap; a screen of 25 rows has only the last of them."""
    rows = without_blanks(texts_of((CORPUS / "vt" / stream).read_bytes()))
    wanted = screen_text(CORPUS / "truth" / "vt" / truth)

    assert wanted
    assert rows[-len(wanted) :] == wanted


@needs_corpus
def test_a_huge_line_is_cut_and_nothing_of_it_is_lost() -> None:
    """The truth cuts its 40,000 characters elsewhere, so it is compared without its line ends."""
    rows = rows_of((CORPUS / "vt/terminal-to-html/huge-line.sh.raw").read_bytes())
    truth = screen_text(CORPUS / "truth/vt/terminal-to-html/huge-line.sh.rendered")

    assert [row.cut for row in rows[:4]] == [True, True, False, False]
    assert "".join(row.text for row in rows) == "".join(truth)


@needs_corpus
@pytest.mark.parametrize(
    "trial",
    ["fibonacci-server.orchestrator", "nginx-request-logging.orchestrator", "reshard-c4-data", "swe-bench-astropy-2"],
)
def test_verdicts_can_be_read_from_the_rows_of_a_test_run(trial: str) -> None:
    """Coloured, on a terminal, in events cut anywhere: what a rule will see is enough to know how each test went."""
    verdicts = {}
    for row in texts_of(stream_of(CORPUS / f"asciicast/tb-tests/{trial}.tests.cast")):
        if found := re.match(r"(PASSED|FAILED) (?:\S*/)?[\w.]+::(\S+)", row):
            verdicts[found[2]] = found[1].lower()

    truth = json.loads((CORPUS / f"truth/asciicast/tb-tests/{trial}.tests.results.json").read_text())
    assert verdicts == truth["parser_results"]
