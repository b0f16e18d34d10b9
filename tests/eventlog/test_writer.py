"""Group commit: few transactions, each appender's order, and no event lost or doubled whatever a commit runs into."""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import lmdb
import pytest

from eventlog import writer as writer_module
from eventlog.decisions import start
from eventlog.events import Marker
from eventlog.segment import WriteTransaction
from eventlog.store import Build, Store, Stored
from eventlog.writer import QUEUE_BYTES, Writer
from tests.eventlog.helpers import (
    BEGAN_NS,
    PATIENCE_S,
    SESSION,
    TINY_CAP_BYTES,
    append,
    everything,
    gapless,
    lines_of,
    numbered_line,
    numbers,
    output,
    started,
    stored,
    wait_until,
)

Builds = Sequence[Sequence[Stored] | Build]
Commit = Callable[[], list[list[int]]]
Trouble = Callable[[Commit], list[list[int]]]


class TroubledStore(Store):
    """A log whose commits can be held up, and go wrong as they are told to."""

    def __init__(self, directory: Path, cap_bytes: int = 1 << 30) -> None:
        super().__init__(directory, cap_bytes=cap_bytes)
        self.troubles: deque[Trouble] = deque()
        self.commits: list[tuple[float, int]] = []  # when each was asked for, and of how many builds
        self.unreadable = 0  # how many times it cannot be opened again
        self._go_on = threading.Event()
        self._go_on.set()
        self._held = threading.Event()

    def append(self, builds: Builds) -> list[list[int]]:
        self._held.set()
        assert self._go_on.wait(PATIENCE_S)
        self.commits.append((time.monotonic(), len(builds)))
        if self.troubles:
            return self.troubles.popleft()(lambda: super(TroubledStore, self).append(builds))
        return super().append(builds)

    def hold(self) -> None:
        """Let the next commit wait for ``go_on``."""
        self._held.clear()
        self._go_on.clear()

    def wait_held(self) -> None:
        assert self._held.wait(PATIENCE_S)

    def go_on(self) -> None:
        self._go_on.set()

    def reopen(self) -> None:
        if self.unreadable:
            self.unreadable -= 1
            raise OSError(errno.EIO, "Input/output error")
        super().reopen()


def disk_full(_: Commit) -> list[list[int]]:
    raise lmdb.DiskError("mdb_txn_commit: No space left on device")


def fails(_: Commit) -> list[list[int]]:
    raise lmdb.Error("mdb_txn_commit: Input/output error")


def commits_and_fails(commit: Commit) -> list[list[int]]:
    """The data was on disk, and then the sync of the meta page failed."""
    commit()
    raise lmdb.Error("mdb_txn_commit: Input/output error")


class Answers:
    """What someone who waits was told."""

    def __init__(self) -> None:
        self._told: list[list[int] | BaseException] = []
        self._done = threading.Event()

    def __call__(self, answer: list[int] | BaseException) -> None:
        self._told.append(answer)
        self._done.set()

    def wait(self) -> list[int] | BaseException:
        assert self._done.wait(PATIENCE_S), "nothing was answered"
        [answer] = self._told
        return answer


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TroubledStore]:
    monkeypatch.setattr(writer_module, "RETRY_S", 0.01)
    with TroubledStore(tmp_path / "log") as store:
        append(store, SESSION, started())
        store.commits.clear()
        yield store


@pytest.fixture
def writer(store: TroubledStore) -> Iterator[Writer]:
    writer = Writer(store)
    yield writer
    store.go_on()
    writer.close()


def line(number: int) -> list[Stored]:
    return stored(SESSION, output(numbered_line(SESSION, number)))


def marker(label: str) -> list[Stored]:
    return stored(SESSION, Marker(label, "me"))


def hold_a_commit(store: TroubledStore, writer: Writer) -> None:
    """Let what comes next gather, behind a commit that waits for ``store.go_on()``."""
    store.hold()
    writer.submit(marker("held"), Answers())
    store.wait_held()


# -- group commit --------------------------------------------------------------------------------------------------


def test_an_append_answers_its_positions_once_they_are_on_disk(store: TroubledStore, writer: Writer) -> None:
    assert writer.append([*line(0), *marker("m")]) == [2, 3]
    assert store.head() == 3


def test_all_that_gathers_while_a_commit_runs_goes_in_the_next_one(store: TroubledStore, writer: Writer) -> None:
    hold_a_commit(store, writer)
    answers = [Answers() for _ in range(500)]
    for number, answer in enumerate(answers):
        writer.submit(line(number), answer)
    store.go_on()

    assert [answer.wait() for answer in answers] == [[3 + number] for number in range(500)]
    assert [builds for _, builds in store.commits] == [1, 500]


def test_appenders_at_once_need_few_commits_and_each_keeps_its_order(store: TroubledStore, writer: Writer) -> None:
    names = [f"s{number}-1" for number in range(32)]
    store.append([stored(name, started(name)) for name in names])

    def appends(name: str) -> None:
        for number in range(40):
            writer.offer(stored(name, output(numbered_line(name, number)), elapsed_ns=number))
            if number % 8 == 7:
                writer.append(stored(name, Marker(str(number), name), elapsed_ns=number))

    threads = [threading.Thread(target=appends, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)

    events = everything(store)
    assert gapless(events)
    for name in names:
        assert numbers(name, lines_of(events, name))
        assert [e.event.label for e in events if isinstance(e.event, Marker) and e.session == name] == [
            "7", "15", "23", "31", "39",
        ]  # fmt: skip
    assert len(store.commits) < 32 * 40 / 4
    statistics = writer.statistics()
    assert (statistics.events, statistics.queued_bytes, statistics.failing) == (32 * 45, 0, None)


def test_what_one_appender_offers_and_then_appends_is_in_that_order(store: TroubledStore, writer: Writer) -> None:
    for number in range(20):
        writer.offer(line(2 * number))
        writer.append(line(2 * number + 1))

    assert numbers(SESSION, lines_of(everything(store)))


def test_a_commit_is_told_of_once_it_can_be_read(store: TroubledStore) -> None:
    heads: list[int] = []
    writer = Writer(store, lambda: heads.append(store.head()))
    position = writer.append(line(0))[-1]
    writer.close()

    assert heads == [position]


# -- pacing --------------------------------------------------------------------------------------------------------


def test_output_after_a_small_commit_waits_for_more_of_it(
    store: TroubledStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PACE_S", 0.3)
    writer.append(marker("small"))
    for number in range(20):
        writer.offer(line(number))
        time.sleep(0.001)
    wait_until(lambda: store.head() == 22, "the lines are on disk")

    [(first, _), (second, builds)] = store.commits
    assert builds == 20
    assert second - first >= 0.25


def test_the_first_output_after_a_pause_goes_at_once(
    store: TroubledStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PACE_S", PATIENCE_S * 2)

    writer.offer(line(0))

    wait_until(lambda: store.head() == 2, "the line is on disk")


def test_what_someone_waits_for_goes_at_once_and_takes_the_output_along(
    store: TroubledStore, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PACE_S", PATIENCE_S * 2)
    writer.append(marker("small"))
    writer.offer(line(0))
    writer.offer(line(1))

    assert writer.append(marker("now")) == [5]
    assert [builds for _, builds in store.commits] == [1, 3]


def test_much_output_does_not_wait(store: TroubledStore, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PACE_S", PATIENCE_S * 2)
    writer.append(marker("small"))

    for _ in range(5):
        writer.offer(stored(SESSION, output(b"x" * 60_000)))

    wait_until(lambda: store.head() >= 7, "the lines are on disk")


def test_paced_output_is_on_disk_after_some_milliseconds(store: TroubledStore, writer: Writer) -> None:
    waited: list[float] = []
    for number in range(20):
        writer.append(marker("small"))
        writer.offer(line(number))
        began = time.monotonic()
        wait_until(lambda: not writer.statistics().queued_bytes, "the line is on disk")
        waited.append(time.monotonic() - began)

    assert sorted(waited)[10] < 0.05, waited  # 5 ms and a commit
    assert numbers(SESSION, lines_of(everything(store)))


# -- the queue is bounded ------------------------------------------------------------------------------------------


def test_who_asks_for_room_waits_while_the_queue_is_full(store: TroubledStore, writer: Writer) -> None:
    hold_a_commit(store, writer)
    assert writer.wait_for_room(0)
    offered = 0
    while writer.wait_for_room(0):
        writer.offer(stored(SESSION, output(b"x" * 60_000)))
        offered += 1
    assert QUEUE_BYTES <= writer.statistics().queued_bytes < QUEUE_BYTES + 61_000
    assert not writer.wait_for_room(0.01)

    store.go_on()

    assert writer.wait_for_room(PATIENCE_S)
    writer.close()
    assert len(lines_of(everything(store))) == offered


def test_closing_commits_what_is_queued(store: TroubledStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PACE_S", PATIENCE_S * 2)
    writer = Writer(store)
    writer.append(marker("small"))
    for number in range(5_000):  # more than one transaction takes
        writer.offer(line(number))

    writer.close()

    assert numbers(SESSION, lines_of(everything(store)))
    assert store.head() == 5_002
    with pytest.raises(RuntimeError, match="closed"):
        writer.offer(line(0))
    with pytest.raises(RuntimeError, match="closed"):
        writer.append(line(0))


# -- when a commit fails -------------------------------------------------------------------------------------------


def gather(store: TroubledStore, writer: Writer) -> tuple[Answers, Answers]:
    """Queue line 0, a marker that is waited for, lines 1 and 2, another: they share a transaction."""
    hold_a_commit(store, writer)
    first, second = Answers(), Answers()
    writer.offer(line(0))
    writer.submit(marker("first"), first)
    writer.offer(line(1))
    writer.offer(line(2))
    writer.submit(marker("second"), second)
    store.go_on()
    return first, second


@pytest.mark.parametrize("times", [1, 3])
def test_on_a_full_disk_who_waits_is_told_and_what_was_offered_is_written_later(
    store: TroubledStore, writer: Writer, times: int
) -> None:
    store.troubles += [lambda commit: commit(), *[disk_full] * times]
    first, second = gather(store, writer)
    assert isinstance(first.wait(), lmdb.DiskError)
    assert isinstance(second.wait(), lmdb.DiskError)
    writer.offer(line(3))
    wait_until(lambda: not writer.statistics().queued_bytes, "the lines are on disk")

    events = everything(store)
    assert [type(e.event).__name__ for e in events] == ["SessionStarted", "Marker", *["Output"] * 4]
    assert gapless(events)
    assert numbers(SESSION, lines_of(events))


def test_while_nothing_can_be_written_the_statistics_say_why(store: TroubledStore, writer: Writer) -> None:
    store.troubles += [disk_full] * 10_000
    answer = Answers()
    writer.offer(line(0))
    writer.submit(marker("m"), answer)
    answer.wait()

    failing = writer.statistics().failing
    assert failing is not None
    assert "No space left" in failing
    assert writer.statistics().queued_bytes > 0

    store.troubles.clear()
    wait_until(lambda: writer.statistics().failing is None, "it can be written again")
    assert lines_of(everything(store)) == [numbered_line(SESSION, 0)]


def test_offered_output_waits_for_room_while_nothing_can_be_written(store: TroubledStore, writer: Writer) -> None:
    store.troubles += [disk_full] * 10_000
    number = 0
    while writer.wait_for_room(0):
        writer.offer(line(number))
        number += 1

    assert not writer.wait_for_room(0.05)
    store.troubles.clear()
    assert writer.wait_for_room(PATIENCE_S)
    writer.close()
    assert len(lines_of(everything(store))) == number
    assert numbers(SESSION, lines_of(everything(store)))


def test_a_commit_that_failed_is_made_again_once(store: TroubledStore, writer: Writer) -> None:
    """It is not known from the error that nothing was written: the tail of the log says so."""
    store.troubles += [lambda commit: commit(), fails]
    first, second = gather(store, writer)

    assert isinstance(first.wait(), lmdb.Error)
    assert isinstance(second.wait(), lmdb.Error)
    writer.append(marker("after"))
    assert lines_of(everything(store)) == [numbered_line(SESSION, n) for n in range(3)]
    assert gapless(everything(store))


def test_a_commit_that_failed_after_all_was_written_is_not_made_again(store: TroubledStore, writer: Writer) -> None:
    store.troubles += [lambda commit: commit(), commits_and_fails]
    first, second = gather(store, writer)

    assert (first.wait(), second.wait()) == ([4], [7])
    writer.append(marker("after"))
    assert lines_of(everything(store)) == [numbered_line(SESSION, n) for n in range(3)]
    assert gapless(everything(store))


def test_a_run_of_lines_that_was_written_is_known_again(store: TroubledStore, writer: Writer) -> None:
    store.troubles.append(commits_and_fails)
    run = stored(SESSION, *[output(numbered_line(SESSION, number)) for number in range(9)])

    assert writer.append(run) == [10]

    writer.append(marker("after"))
    assert numbers(SESSION, lines_of(everything(store)))
    assert store.head() == 11


def test_a_session_whose_start_was_written_has_its_id_although_the_commit_failed(
    store: TroubledStore, writer: Writer
) -> None:
    chosen: list[str] = []
    store.troubles.append(commits_and_fails)

    assert writer.append(start(started(), BEGAN_NS, chosen)) == [2]

    assert [row.session for row in store.sessions()] == [SESSION, chosen[-1]]


def test_another_process_at_the_same_position_is_not_taken_for_one_s_own_commit(
    store: TroubledStore, writer: Writer
) -> None:
    """Ours failed, and in the meantime another wrote just the same line of its own session."""

    def overtaken(commit: Commit) -> list[list[int]]:
        with pytest.raises(ZeroDivisionError):
            Store.append(store, [mine, fails_in_transaction])
        Store.append(store, [stored("other-1", *[output(numbered_line(SESSION, 0))])])
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    mine = line(0)
    store.troubles.append(overtaken)
    writer.offer(mine)
    wait_until(lambda: not writer.statistics().queued_bytes, "the line is on disk")

    assert lines_of(everything(store), SESSION) == [numbered_line(SESSION, 0)]


def fails_in_transaction(_: WriteTransaction) -> list[Stored]:
    raise ZeroDivisionError


def test_while_it_cannot_be_known_what_was_written_nothing_is_written_again(
    store: TroubledStore, writer: Writer
) -> None:
    store.troubles.append(commits_and_fails)
    store.unreadable = 3

    assert writer.append([*line(0), *marker("m")]) == [2, 3]
    assert lines_of(everything(store)) == [numbered_line(SESSION, 0)]


def test_a_writer_rolls_over_and_goes_on_after_every_kind_of_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_S", 0.001)
    with TroubledStore(tmp_path / "log2", cap_bytes=TINY_CAP_BYTES) as store:
        append(store, SESSION, started())
        store.troubles += [lambda commit: commit(), disk_full, commits_and_fails, fails, disk_full] * 40
        writer = Writer(store)
        for number in range(2_000):
            writer.wait_for_room()
            writer.offer(line(number))
            if number % 20 == 19:
                answer = Answers()
                writer.submit(marker("m"), answer)
                answer.wait()
        writer.close()

        assert len(store.segments()) > 3
        assert gapless(everything(store))
        assert len(lines_of(everything(store))) == 2_000
        assert numbers(SESSION, lines_of(everything(store)))


def test_a_full_disk_is_called_one_whoever_noticed_it(store: TroubledStore, writer: Writer) -> None:
    """Making the next segment fails with an OSError of the directory's."""

    def no_directory(_: Commit) -> list[list[int]]:
        raise OSError(errno.ENOSPC, "No space left on device")

    store.troubles.append(no_directory)

    with pytest.raises(lmdb.DiskError, match="No space left"):
        writer.append(marker("m"))


# -- a build that raises -------------------------------------------------------------------------------------------


def test_a_build_that_raises_costs_its_own_caller_only(store: TroubledStore, writer: Writer) -> None:
    hold_a_commit(store, writer)
    before, broken, after = Answers(), Answers(), Answers()
    writer.offer(line(0))
    writer.submit(marker("before"), before)
    writer.submit(fails_in_transaction, broken)
    writer.offer(line(1))
    writer.submit(marker("after"), after)
    store.go_on()

    assert isinstance(broken.wait(), ZeroDivisionError)
    assert (before.wait(), after.wait()) == ([4], [6])
    assert lines_of(everything(store)) == [numbered_line(SESSION, 0), numbered_line(SESSION, 1)]
    assert writer.statistics().failing is None


def test_a_build_may_decide_to_record_nothing(store: TroubledStore, writer: Writer) -> None:
    assert writer.append(lambda _: []) == []
    assert store.head() == 1


def test_a_build_sees_what_its_own_transaction_recorded_before_it(store: TroubledStore, writer: Writer) -> None:
    seen: list[int] = []

    def looks(txn: WriteTransaction) -> list[Stored]:
        row = txn.session(SESSION)[1]
        assert row is not None
        seen.append(row.lines)
        return []

    hold_a_commit(store, writer)
    answer = Answers()
    writer.offer(line(0))
    writer.offer(line(1))
    writer.submit(looks, answer)
    store.go_on()
    answer.wait()

    assert seen == [2]
