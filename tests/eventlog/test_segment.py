"""One segment: its header, its seal, its block index, and what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import lmdb
import msgspec
import pytest

from eventlog import segment as segment_module
from eventlog.errors import LogFormatError, SegmentError
from eventlog.segment import BLOCK_SHIFT, FORMAT, LOCK_BYTES, Segment, segment_name
from eventlog.store import Store, Stored, _put
from tests.eventlog.helpers import (
    PATIENCE_S,
    SESSION,
    append,
    die_in_a_read_transaction,
    events_of,
    fail_to_open,
    keep_open,
    output,
    pipe,
    positions_of,
    received,
    running,
    started,
    stored,
)

BLOCK = 1 << BLOCK_SHIFT
OTHER = "other-20261122-101500"


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Segment]:
    """An empty segment that begins at position 100."""
    Segment.create(tmp_path, 100, log_id="log-1", cap_bytes=1 << 20)
    segment = Segment(tmp_path / segment_name(100), writable=True)
    yield segment
    segment.close()


def put(segment: Segment, *records: Stored) -> None:
    with segment.write() as txn:
        assert txn is not None
        _put(txn, [records], {})


def test_a_new_segment_is_empty_and_knows_where_it_begins(segment: Segment) -> None:
    assert (segment.first, segment.head(), segment.sealed()) == (100, 99, None)
    assert segment.read(99, 1 << 20).records == []
    assert (segment.log_id, segment.cap_bytes) == ("log-1", 1 << 20)


def test_the_first_event_has_the_position_in_the_segment_s_name(segment: Segment) -> None:
    put(segment, *stored(SESSION, started(), output(b"one\n"), output(b"two\n")))

    assert positions_of(events_of(segment.read(99, 1 << 20).records)) == [100, 101, 102]
    assert segment.head() == 102


def test_a_sealed_segment_says_where_the_next_begins_and_takes_no_more(segment: Segment) -> None:
    put(segment, *stored(SESSION, started()))

    segment.seal()

    assert segment.sealed() == 101
    with segment.write() as txn:
        assert txn is None
    assert segment.head() == 100


def test_a_segment_is_sealed_once_whoever_seals_it_again(segment: Segment) -> None:
    put(segment, *stored(SESSION, started()))

    segment.seal()
    commits = segment.last_txn_id()
    segment.seal()

    assert (segment.sealed(), segment.last_txn_id()) == (101, commits)


def test_an_empty_segment_is_never_sealed(segment: Segment) -> None:
    """Its next would begin at its own first position."""
    segment.seal()

    assert segment.sealed() is None


def test_who_comes_second_to_make_a_segment_finds_the_first_one_s(segment: Segment, tmp_path: Path) -> None:
    put(segment, *stored(SESSION, started()))

    Segment.create(tmp_path, 100, log_id="log-2", cap_bytes=1)

    assert (segment.head(), segment.log_id) == (100, "log-1")
    assert [path.name for path in tmp_path.iterdir()] == [segment_name(100)]


def test_what_a_write_had_put_is_gone_when_it_fails(segment: Segment) -> None:
    put(segment, *stored(SESSION, started()))

    with pytest.raises(ZeroDivisionError), segment.write() as txn:
        assert txn is not None
        _put(txn, [stored(SESSION, output(b"lost\n"))], {})
        raise ZeroDivisionError

    assert segment.head() == 100


def test_a_position_is_never_written_twice(segment: Segment) -> None:
    """LMDB's append mode passes over old keys without a word."""
    [one] = stored(SESSION, started())
    with pytest.raises(SegmentError, match="0 of 1 records"), segment.write() as txn:
        assert txn is not None
        txn.put_records([(b"\0\0\0\0\0\0\0\x64", one.value)])
        txn.put_records([(b"\0\0\0\0\0\0\0\x64", one.value)])

    assert segment.head() == 99


def test_closing_waits_for_who_still_reads(segment: Segment) -> None:
    with segment.in_use():
        assert not segment.close_if_idle()

    assert segment.close_if_idle()


# -- the block index -----------------------------------------------------------------------------------------------


def test_a_session_is_found_again_after_a_million_positions_of_others(segment: Segment) -> None:
    put(segment, *stored(SESSION, started()), *stored(OTHER, started("other")))
    for _ in range(10):
        put(segment, *stored(OTHER, *[output(b"\n")] * 100_000))
    put(segment, *stored(SESSION, output(b"again\n")))

    page = segment.read(99, 1 << 20, SESSION)

    assert positions_of(events_of(page.records)) == [100, 1_000_102]
    assert page.position == 1_000_102


def test_a_run_that_crosses_a_block_s_border_is_met_from_either_side(segment: Segment) -> None:
    put(segment, *stored(OTHER, started("other"), *[output(b"\n")] * (BLOCK - 103)))
    put(segment, *stored(SESSION, started()))  # the last but one of its block
    assert segment.head() == BLOCK - 2
    put(segment, *stored(SESSION, *[output(b"%d\n" % n) for n in range(4)]))

    for after in range(BLOCK - 4, BLOCK + 3):
        found = positions_of(events_of(segment.read(after, 1 << 20, SESSION).records))
        assert found == [position for position in range(BLOCK - 2, BLOCK + 3) if position > after]


def test_a_run_longer_than_a_block_is_met_from_within(segment: Segment) -> None:
    put(segment, *stored(SESSION, started(), *[output(b"\n")] * (3 * BLOCK)))

    for after in (99, 100, BLOCK - 1, BLOCK, 2 * BLOCK + 5, 3 * BLOCK + 99):
        found = positions_of(events_of(segment.read(after, 1 << 20, SESSION).records))
        assert found == list(range(after + 1, 3 * BLOCK + 101))


def test_a_session_whose_name_begins_another_s_is_not_taken_for_it(segment: Segment) -> None:
    put(segment, *stored("a-1-2", started("a")), *stored("a-1", started("a")), *stored("a-1-20", started("a")))

    assert [positions_of(events_of(segment.read(99, 1 << 20, s).records)) for s in ("a-1", "a-1-2")] == [[101], [100]]


def test_where_to_begin_for_a_time_is_the_last_block_that_begins_before_it(segment: Segment) -> None:
    put(segment, *stored(SESSION, started()))  # position 100, at 0
    for elapsed_ns in (10, 20, 30):
        put(segment, *stored(SESSION, *[output(b"\n")] * BLOCK, elapsed_ns=elapsed_ns))

    found = {at: segment.position_at(SESSION, at) for at in (0, 10, 11, 20, 21, 31)}

    assert found == {0: (100, 0), 10: (100, 0), 11: (101, 10), 20: (101, 10), 21: (4197, 20), 31: (8293, 30)}
    assert segment.position_at(OTHER, 0) is None


# -- what is refused -----------------------------------------------------------------------------------------------


def change_header(path: Path, **values: int) -> None:
    env = lmdb.open(str(path), max_dbs=8)
    with env.begin(write=True) as txn:
        for key, value in values.items():
            txn.put(key.encode(), msgspec.msgpack.encode(value), db=env.open_db(b"meta", txn))
    env.close()


def test_a_newer_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    Segment.create(tmp_path, 1, log_id="log-1", cap_bytes=1 << 20)
    change_header(tmp_path / segment_name(1), format=FORMAT + 1)

    with pytest.raises(LogFormatError) as refused:
        Segment(tmp_path / segment_name(1))

    assert (refused.value.found, refused.value.supported) == (FORMAT + 1, FORMAT)


def test_a_segment_under_another_s_name_is_refused(tmp_path: Path) -> None:
    Segment.create(tmp_path, 1, log_id="log-1", cap_bytes=1 << 20)
    (tmp_path / segment_name(1)).rename(tmp_path / segment_name(2))

    with pytest.raises(SegmentError, match="begins at 1"):
        Segment(tmp_path / segment_name(2))


@pytest.mark.parametrize("content", [b"", b"\0" * 8192, b"no database" * 1_000], ids=["empty", "zeros", "text"])
def test_a_file_that_is_no_segment_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / segment_name(1)).mkdir()
    (tmp_path / segment_name(1) / "data.mdb").write_bytes(content)

    with pytest.raises(SegmentError):
        Segment(tmp_path / segment_name(1))


def test_a_truncated_file_is_refused_before_it_is_touched(segment: Segment) -> None:
    """Reading a page that is not there would end the process."""
    put(segment, *stored(SESSION, started(), output(b"x" * 60_000)))
    segment.close()
    data = segment.path / "data.mdb"
    os.truncate(data, data.stat().st_size - 4096)

    with pytest.raises(SegmentError, match="truncated"):
        Segment(segment.path)


# -- with other processes ------------------------------------------------------------------------------------------


def test_the_lock_file_has_all_its_blocks_from_the_start(segment: Segment) -> None:
    """LMDB maps it: where the disk is full, a hole in it would be SIGBUS for whoever touches it first."""
    info = (segment.path / "lock.mdb").stat()

    assert info.st_size == LOCK_BYTES
    assert info.st_blocks * 512 >= info.st_size
    assert segment._env.info()["max_readers"] == 1024


def test_a_reader_killed_in_its_transaction_pins_nothing_for_who_opens_next(tmp_path: Path) -> None:
    """Its slot stayed for ever otherwise, and no page freed since was used again: 22 KB more for every commit."""
    ours, theirs = pipe()
    with Store(tmp_path) as store, running(keep_open, tmp_path, theirs):
        append(store, SESSION, started())
        assert received(ours, "another has it open too, so that its lock file is not made anew") == "open"
        with running(die_in_a_read_transaction, tmp_path) as reader:
            reader.join(PATIENCE_S)
            assert reader.exitcode == -signal.SIGKILL
            pid = str(reader.pid)
        with store.newest() as segment:
            assert pid in segment._env.readers()

        store.reopen()  # as any other process does that opens the log

        with store.newest() as segment:
            assert pid not in segment._env.readers()


def test_a_segment_whose_reader_table_is_full_is_not_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_module, "LOCK_BYTES", 64 + 128 + 64)
    monkeypatch.setattr(segment_module, "MAX_READERS", 2)
    ours, theirs = pipe()
    with Store(tmp_path / "log") as store, store.newest() as segment:
        with segment._env.begin(), segment._env.begin(), running(fail_to_open, tmp_path / "log", False, theirs):
            assert received(ours, "it could not be opened")[0] == "ReadersFullError"


def test_a_copy_made_while_others_write_opens_as_a_segment(segment: Segment, tmp_path: Path) -> None:
    put(segment, *stored(SESSION, started(), output(b"one\n")))
    copy = tmp_path / "copy" / segment_name(100)
    copy.mkdir(parents=True)

    segment.copy(copy)
    put(segment, *stored(SESSION, output(b"later\n")))

    copied = Segment(copy)
    assert positions_of(events_of(copied.read(99, 1 << 20).records)) == [100, 101]
    assert copied.session(SESSION) is not None
    copied.close()
    shutil.rmtree(copy)
