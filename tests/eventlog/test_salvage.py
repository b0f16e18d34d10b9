"""A segment whose file was cut short is read up to the cut, and never beyond what is certain."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path

import lmdb
import pytest

from eventlog.codec import OutputRun, Record, encode
from eventlog.decisions import start
from eventlog.errors import EventDecodeError, SegmentError
from eventlog.events import Marker, SessionStarted
from eventlog.salvage import Salvaged
from eventlog.segment import Segment, pack_position, segment_name
from eventlog.store import Store
from tests.eventlog.maintenance_helpers import (
    BEGAN_NS,
    TINY_CAP,
    A,
    B,
    append,
    contents,
    cut,
    data_file,
    event,
    flip,
    log_of_segments,
    output,
    raw,
    running,
    started,
    whole_session,
)

PAGE = 4_096


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def salvaged(path: Path) -> Salvaged:
    return Salvaged(path, SegmentError(path, "cut"))


def read_all(segment: Salvaged, after: int = 0) -> list[Record]:
    """Page by page, small ones, until the segment says that it ends."""
    records: list[Record] = []
    while True:
        if after == segment.head():
            with pytest.raises(EventDecodeError) as caught:
                segment.read(after, 2_000)
            assert caught.value.position == after + 1
            return records
        page = segment.read(after, 2_000)
        assert after < page.position <= segment.head()
        records += page.records
        after = page.position


# -- real files ----------------------------------------------------------------------------------------------------


def test_whatever_the_file_is_cut_to_what_is_left_is_a_prefix_and_grows_with_it(log: Path) -> None:
    """Many small commits, so that leaves were copied and freed, and runs on overflow pages between."""
    with Store(log) as store:
        append(store, [started(), running(), started(B), running(B)])
        for n in range(120):
            large = output(n, *[b"%d" % n + b"." * 900 + b"\n"] * 7) if n % 9 == 0 else output(n, b"%d\n" % n)
            append(store, [large, output(n, b"%d\n" % n, b"more\n", session=B)])
        truth = contents(store)
    path = data_file(log)
    whole = path.read_bytes()
    reached = [0]

    for size in range(len(whole), -1, -7 * PAGE // 2):
        cut(path, size)
        segment = salvaged(path.parent)
        reached.append(segment.head())
        assert read_all(segment) == truth[: sum(record.last <= segment.head() for record in truth)]

    heads = reached[1:]
    assert heads == sorted(heads, reverse=True)
    assert heads[0] == truth[-1].last  # nothing was cut off: nothing is missing
    assert heads[len(heads) // 2] > truth[-1].last // 3
    assert heads[-1] == 0


@pytest.mark.parametrize("seed", range(20))
def test_scattered_damage_never_shows_what_was_not_recorded(log: Path, seed: int) -> None:
    chance = random.Random(seed)
    log_of_segments(log, 1, lines=8)
    with Store(log) as store:
        truth = contents(store)
    path = data_file(log)
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 10, 300])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    path.write_bytes(data)

    found = read_all(salvaged(path.parent))

    assert found == truth[: len(found)]


# -- through the store ---------------------------------------------------------------------------------------------


def test_a_log_with_a_cut_segment_is_read_up_to_the_cut_and_from_the_next_segment_on(log: Path) -> None:
    _, second, third = log_of_segments(log, 3)
    with Store(log) as store:
        truth = contents(store)
    cut(data_file(log, second), data_file(log, second).stat().st_size * 3 // 4)

    with Store(log, create=False) as store:
        assert store.damage is None
        seen: list[Record] = []
        with pytest.raises(EventDecodeError, match=r"cannot be read on from here: truncated: data\.mdb has") as caught:
            for record in store.records():
                seen.append(record)
        rest = list(store.records(after=third - 1))

    assert second + 20 < caught.value.position < third
    assert seen == [record for record in truth if record.last < caught.value.position]
    assert rest == [record for record in truth if record.first >= third]


def test_a_cut_newest_segment_is_read_with_its_sessions_and_refuses_to_be_written(log: Path) -> None:
    """The session table went with the tree: it is the one of the segment before and the records that are left."""
    _, second = log_of_segments(log, 2)
    with Store(log, cap_bytes=TINY_CAP) as store:
        append(store, [record for record in whole_session(B, lines=6)])
        kept = store.head()
        rows = store.sessions()
        truth = contents(store)
        log_id = store.log_id
        append(store, [output(10**12, *[b"." * 3_000] * 10)])
    path = data_file(log, second)
    cut(path, path.stat().st_size - 7 * PAGE)  # the last run, which stands on overflow pages
    left = path.read_bytes()

    with Store(log, cap_bytes=TINY_CAP) as store:
        assert store.head() == kept
        assert contents(store) == truth
        assert store.sessions() == rows
        assert store.session(B) == rows[1]
        assert store.log_id == log_id
        assert isinstance(store.damage, SegmentError)
        with pytest.raises(EventDecodeError) as unreadable:
            store.read(kept)
        with pytest.raises(SegmentError, match=rf"{segment_name(second)}: truncated: data\.mdb has") as refused:
            append(store, [event(A, 10**12, Marker("", ""))])
        with pytest.raises(SegmentError):
            store.append([start(SessionStarted("c", [], "/", "pty", 1, 1, "", {}, "", "cli"), BEGAN_NS, [])])

    assert unreadable.value.position == kept + 1
    assert refused.value.path == path.parent
    assert path.read_bytes() == left
    assert not (log / segment_name(kept + 1)).exists()


def test_one_session_one_kind_and_the_middle_of_a_run_are_read_as_from_a_whole_segment(log: Path) -> None:
    with Store(log) as store:
        for n in range(30):
            append(store, [*([started(), running(), started(B), running(B)] if n == 0 else [])])
            append(store, [output(n, b"a\n", b"b\n", b"c\n"), output(n, b"%d\n" % n, session=B)])
            append(store, [event(B, n, Marker(str(n), ""))])
        truth = {
            "session": list(store.records(session=B)),
            "kind": list(store.records(kinds=[Marker])),
            "run": list(store.records(after=5)),
            "start": list(store.records(store.session_start(B, 20), session=B)),
        }
        head = store.head()
    path = data_file(log)
    path.write_bytes(path.read_bytes()[:-1])

    with Store(log) as store:
        assert store.damage is not None
        until = store.head()
        assert until > head // 2

        def kept(name: str) -> list[Record]:
            return [record for record in truth[name] if record.last <= until]

        assert list(store.records(session=B)) == kept("session")
        assert list(store.records(kinds=[Marker])) == kept("kind")
        assert list(store.records(after=5)) == kept("run")
        assert isinstance(kept("run")[0].event, OutputRun)
        assert kept("run")[0].count == 2
        from_20 = list(store.records(store.session_start(B, 20), session=B))
        assert from_20[-len(kept("start")) :] == kept("start")


def test_a_segment_of_which_nothing_is_left_is_an_error_at_its_first_position(log: Path) -> None:
    _, second, _ = log_of_segments(log, 3)
    data_file(log, second).write_bytes(b"")

    with Store(log) as store, pytest.raises(EventDecodeError) as caught:
        contents(store)

    assert caught.value.position == second


def test_opening_a_segment_says_that_it_is_cut_and_leaves_it_alone(log: Path) -> None:
    """LMDB takes an empty file for a new environment and writes one into it; a missing one too."""
    log_of_segments(log, 1)
    path = data_file(log)
    cut(path, 0)

    with pytest.raises(SegmentError, match=r"data\.mdb is empty"):
        Segment(path.parent)
    assert path.stat().st_size == 0

    path.unlink()
    with pytest.raises(SegmentError, match=r"data\.mdb is missing"):
        Segment(path.parent)
    shutil.rmtree(path.parent)
    with pytest.raises(FileNotFoundError):
        Segment(path.parent)


def test_a_damaged_record_ends_what_is_read_of_a_cut_segment(log: Path) -> None:
    log_of_segments(log, 1, lines=5)
    path = data_file(log)
    cut(path, path.stat().st_size - 1)
    whole = salvaged(path.parent).head()
    flip(path, b"00002 of 2000000000\n")  # in the run that ends at 17

    assert whole > 30
    assert salvaged(path.parent).head() == 12


# -- pages made by hand --------------------------------------------------------------------------------------------


def leaf(number: int, *records: tuple[int, Record | bytes], overflow: int | None = None) -> bytes:
    """A leaf page as mdb.c writes it; with *overflow*, the last record's data stands from that page on."""
    pointers, data = b"", b""
    for last, record in records:
        value = record if isinstance(record, bytes) else encode(record)
        size, flags = len(value), 0
        if overflow is not None and last == records[-1][0]:
            value, flags = struct.pack("=Q", overflow), 1
        node = struct.pack("=IHH", size, flags, 8) + pack_position(last) + value
        data = node + b"\0" * (len(node) % 2) + data
        pointers += struct.pack("=H", PAGE - len(data))
    header = struct.pack("=QHHHH", number, 0, 2, 16 + len(pointers), PAGE - len(data))
    return (header + pointers).ljust(PAGE - len(data), b"\0") + data


def overflow_run(number: int, data: bytes) -> list[bytes]:
    pages = (16 + len(data) + PAGE - 1) // PAGE
    whole = (struct.pack("=QHHI", number, 0, 4, pages) + data).ljust(pages * PAGE, b"\0")
    return [whole[n : n + PAGE] for n in range(0, len(whole), PAGE)]


def segment_of(tmp_path: Path, pages: list[bytes], last_page: int | None = None) -> Salvaged:
    """A segment of these pages behind two real meta pages, whose newer one says *last_page*."""
    path = tmp_path / segment_name(1)
    path.mkdir()
    with lmdb.open(str(path), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v")
    data = bytearray((path / "data.mdb").read_bytes()[: 2 * PAGE])
    for meta in (0, PAGE):
        struct.pack_into("=Q", data, meta + 16 + 120, last_page if last_page is not None else len(pages) + 1)
    (path / "data.mdb").write_bytes(bytes(data) + b"".join(pages))
    return salvaged(path)


def note(n: int, text: str = "") -> Record:
    return event(A, n, Marker(text or str(n), ""))


def labels(segment: Salvaged) -> list[str]:
    return [record.event.label for record in read_all(segment) if isinstance(record.event, Marker)]


def test_leaves_are_read_in_the_order_of_their_positions_not_of_their_pages(tmp_path: Path) -> None:
    segment = segment_of(tmp_path, [leaf(2, (3, note(3)), (4, note(4))), leaf(3, (1, note(1)), (2, note(2)))])

    assert labels(segment) == ["1", "2", "3", "4"]


def test_older_copies_of_a_leaf_change_nothing(tmp_path: Path) -> None:
    """A commit copies the last leaf and adds to the copy: the old page is free, and still there."""
    old, older = leaf(2, (1, note(1)), (2, note(2))), leaf(4, (1, note(1)))
    new = leaf(3, (1, note(1)), (2, note(2)), (3, note(3)))

    assert labels(segment_of(tmp_path, [old, new, older])) == ["1", "2", "3"]


def test_where_two_leaves_differ_about_a_position_neither_is_believed(tmp_path: Path) -> None:
    """One of them was written by a commit that never came to be, and nothing says which."""
    one = leaf(2, (1, note(1)), (2, note(2)), (3, note(3, "committed?")), (4, note(4)))
    other = leaf(3, (1, note(1)), (2, note(2)), (3, note(3, "or this?")))
    again = leaf(4, (1, note(1)), (2, note(2)), (3, note(3, "or this?")))
    behind = leaf(5, (5, note(5)))

    segment = segment_of(tmp_path, [one, other, again, behind])

    assert labels(segment) == ["1", "2"]
    assert segment.head() == 2


def test_leaves_that_were_cut_into_records_differently_are_not_believed_either(tmp_path: Path) -> None:
    one = leaf(2, (1, note(1)), (2, note(2)), (4, output(3, b"x\n", b"y\n")))
    other = leaf(3, (3, note(3)))

    segment = segment_of(tmp_path, [one, other])

    assert labels(segment) == ["1", "2"]


def test_what_lies_beyond_the_last_commit_is_not_looked_at(tmp_path: Path) -> None:
    """A writer killed in its commit has written pages, but not the meta page that makes them the log's."""
    committed, uncommitted = leaf(2, (1, note(1))), leaf(3, (2, note(2)))

    assert labels(segment_of(tmp_path, [committed, uncommitted], last_page=2)) == ["1"]


def test_output_that_looks_like_a_leaf_is_output(tmp_path: Path) -> None:
    """A child that knows this format prints a page with a record that was never recorded, on a page's border."""
    forged = leaf(4, (2, note(2, "forged")))
    padding = (PAGE - 16) - encode(output(1, b"." * PAGE + forged)).index(b"....")  # up to the next page's border
    run = output(1, b"." * padding + forged)
    pages = overflow_run(3, encode(run))
    assert pages[1] == forged

    segment = segment_of(tmp_path, [leaf(2, (1, run), overflow=3), *pages])

    assert read_all(segment) == [Record(A, run.at_ns, run.elapsed_ns, run.event, 1)]


def test_a_run_whose_overflow_pages_are_cut_off_is_not_there(tmp_path: Path) -> None:
    run = output(2, b"." * 10_000)
    pages = overflow_run(3, encode(run))

    segment = segment_of(tmp_path, [leaf(2, (1, note(1)), (2, run), overflow=3), *pages[:-1]], last_page=9)

    assert labels(segment) == ["1"]


@pytest.mark.parametrize(
    ("row", "value", "reason"),
    [("format", None, "its header is missing"), ("log", b"\xa1\xf6", "its header is damaged")],
)
def test_what_a_damaged_header_hides_is_salvaged(log: Path, row: str, value: bytes | None, reason: str) -> None:
    log_of_segments(log, 1)
    with Store(log) as store:
        truth = contents(store)
    with raw(log, table=b"meta") as put:
        put(row, value)

    with Store(log) as store:
        assert store.damage is not None
        assert store.damage.reason.startswith(reason)
        assert contents(store) == truth
