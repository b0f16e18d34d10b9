"""Following the log: each event once, in order, from any position into live, and nobody sleeps past a commit."""

from __future__ import annotations

import errno
import os
import re
import shutil
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from eventlog import subscription as subscription_module
from eventlog.errors import EventDecodeError
from eventlog.events import Marker, Output, Recorded, RulesChanged
from eventlog.log import EventLog, open_log
from eventlog.segment import pack_position
from eventlog.subscription import Subscription
from tests.eventlog.helpers import (
    BEGAN_NS,
    PATIENCE_S,
    SESSION,
    TINY_CAP_BYTES,
    append,
    events_of,
    gapless,
    lines_of,
    numbers,
    output,
    pipe,
    positions_of,
    received,
    running,
    started,
    stored,
    write_lines,
    write_when_told,
)

OTHER = "other-20261122-101500"


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    with trio.fail_after(4 * PATIENCE_S):
        async with open_log(tmp_path / "log", cap_bytes=TINY_CAP_BYTES) as log:
            yield log


async def append_outputs(log: EventLog, count: int, session: str = SESSION) -> None:
    if log.store.session(session) is None:
        await log.append(session, started(), at_ns=BEGAN_NS, elapsed_ns=0)
        count -= 1
    for number in range(0, count, 50):
        lines = [output(b"%d\n" % n) for n in range(number, min(number + 50, count))]
        await log.append_many(session, lines, at_ns=BEGAN_NS, elapsed_ns=0)


async def say(log: EventLog, label: str, session: str | None = SESSION) -> int:
    return await log.append(session, Marker(label, "me"), at_ns=BEGAN_NS, elapsed_ns=0)


# -- history and live are one --------------------------------------------------------------------------------------


async def test_a_subscriber_that_starts_late_sees_every_event_once(log: EventLog) -> None:
    """Catching up and following live have no seam."""
    await append_outputs(log, 1000)

    events = log.subscribe(after=0)
    seen = [await anext(events) for _ in range(1000)]
    await log.append(SESSION, output(b"live"), at_ns=BEGAN_NS, elapsed_ns=1)
    seen.append(await anext(events))

    assert [e.position for e in seen] == list(range(1, 1002))


async def test_a_subscriber_may_begin_anywhere(log: EventLog) -> None:
    """In the middle of a run too, and at the head, and where nothing is yet."""
    await append_outputs(log, 120)

    for after in (0, 1, 17, 119, 120):
        events = log.subscribe(after=after)
        await say(log, "one more")
        head = log.head()
        assert positions_of([await anext(events) for _ in range(head - after)]) == list(range(after + 1, head + 1))


async def test_events_appended_while_a_subscriber_catches_up_come_in_their_place(log: EventLog) -> None:
    seen: list[Recorded] = []

    async def follow() -> None:
        async for event in log.subscribe(after=0):
            seen.append(event)
            if len(seen) == 3_000:
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        for _ in range(30):
            await append_outputs(log, 100)
    assert len(log.store.segments()) > 1
    assert gapless(seen)


async def test_subscribers_at_their_own_places_do_not_mind_each_other(log: EventLog) -> None:
    await append_outputs(log, 100)
    early, late = log.subscribe(after=0), log.subscribe(after=100)
    await say(log, "live")

    assert (await anext(late)).position == 101
    assert positions_of([await anext(early) for _ in range(101)]) == list(range(1, 102))


async def test_a_subscriber_of_one_session_sees_its_events_only(log: EventLog) -> None:
    for number in range(20):
        await append_outputs(log, 100, OTHER)
        await append_outputs(log, 3, SESSION)
        if number == 10:
            events = log.subscribe(after=0, session=SESSION)
            seen = [await anext(events) for _ in range(33)]
    seen += [await anext(events) for _ in range(27)]

    assert {event.session for event in seen} == {SESSION}
    assert positions_of(seen) == [n * 103 + offset for n in range(20) for offset in (101, 102, 103)]


async def test_seeking_gives_the_same_events_again(log: EventLog) -> None:
    await append_outputs(log, 30)
    events = log.subscribe(after=0)
    first = [await anext(events) for _ in range(30)]

    events.seek(4)

    assert [await anext(events) for _ in range(26)] == first[4:]


async def test_who_iterates_resumes_at_the_last_event_s_own_position(log: EventLog) -> None:
    await append_outputs(log, 100)
    events = log.subscribe(after=0)
    seen = [await anext(events) for _ in range(7)]

    events = log.subscribe(after=seen[-1].position)
    seen += [await anext(events) for _ in range(93)]

    assert gapless(seen)


# -- caught up -----------------------------------------------------------------------------------------------------


async def test_next_says_once_that_there_is_no_more_and_then_waits(log: EventLog) -> None:
    await append_outputs(log, 5)
    events = log.subscribe(after=0)

    assert positions_of(events_of(await events.next())) == [1, 2, 3, 4, 5]
    assert (events.caught_up, events.position) == (False, 5)
    assert await events.next() == []
    assert (events.caught_up, events.position) == (True, 5)
    with trio.move_on_after(0.05) as waited:
        await events.next()
    assert waited.cancelled_caught

    await say(log, "live")
    assert positions_of(events_of(await events.next())) == [6]
    assert not events.caught_up
    assert await events.next() == []


async def test_a_new_log_s_subscriber_has_caught_up_at_once(log: EventLog) -> None:
    events = log.subscribe(after=0)

    assert await events.next() == []
    assert (events.caught_up, events.position) == (True, 0)


async def test_what_others_write_moves_the_position_of_a_caught_up_filter_and_wakes_nobody(log: EventLog) -> None:
    await append_outputs(log, 3)
    events = log.subscribe(after=0, session=SESSION)
    assert len(await events.next()) == 2
    assert await events.next() == []

    async with trio.open_nursery() as nursery:

        async def next_one() -> None:
            assert [record.event for record in await events.next()] == [Marker("mine", "me")]
            nursery.cancel_scope.cancel()

        nursery.start_soon(next_one)
        for _ in range(10):
            await say(log, "not mine", OTHER)
            while events.position < log.head():
                await trio.sleep(0.001)
            assert events.caught_up
        await say(log, "mine")
        await trio.sleep(PATIENCE_S)


async def test_a_batch_is_never_empty(log: EventLog) -> None:
    events = log.subscribe(after=0)
    assert await events.next() == []
    await say(log, "live")

    assert len(await events.batch()) == 1


# -- cancelled, damaged --------------------------------------------------------------------------------------------


async def test_a_wait_that_is_cancelled_has_taken_nothing(log: EventLog) -> None:
    """It read, and was cancelled before it could hand over what it had read: five events were gone."""
    await append_outputs(log, 5)
    events = log.subscribe(after=0)

    for wait in (events.next, events.batch, events.__anext__):
        with trio.CancelScope() as scope:
            scope.cancel()
            await wait()
        assert scope.cancelled_caught
        assert events.position == 0

    assert positions_of([await anext(events) for _ in range(5)]) == [1, 2, 3, 4, 5]


async def test_a_subscriber_cancelled_again_and_again_misses_nothing(log: EventLog) -> None:
    await append_outputs(log, 1)
    events = log.subscribe(after=0)
    seen: list[Recorded] = []
    with running(write_lines, log.store.directory, "writer", 1_000, TINY_CAP_BYTES):
        while len(seen) < 1 + 1_000 + 22:
            with trio.move_on_after(0.0005):
                while True:
                    seen += events_of(await events.next())

    assert gapless(seen)
    assert numbers("writer", lines_of(seen))


async def test_what_stands_before_a_damaged_record_is_delivered_and_then_the_damage_is_told(log: EventLog) -> None:
    await append_outputs(log, 3)
    await say(log, "damaged")
    with log.store.live() as segment, segment._env.begin(write=True) as txn:
        txn.put(pack_position(4), b"no record at all", db=segment._events)
    events = log.subscribe(after=0)

    assert positions_of([await anext(events) for _ in range(3)]) == [1, 2, 3]
    with pytest.raises(EventDecodeError) as damage:
        await anext(events)
    assert damage.value.position == 4


# -- waking --------------------------------------------------------------------------------------------------------


async def test_another_process_s_commits_are_each_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, through roll-overs, and with a safety net of an hour: a commit slept past would end the test."""
    monkeypatch.setattr(subscription_module, "SAFETY_NET_S", 3600.0)
    ours, theirs = pipe()
    took_ms: list[float] = []
    seen: list[Recorded] = []
    with running(write_when_told, tmp_path / "log", TINY_CAP_BYTES, theirs):
        ours.send(100)
        received(ours, "the log was made")
        async with open_log(tmp_path / "log", create=False) as log:
            events = log.subscribe(after=0)
            seen.append(await anext(events))
            for _ in range(300):
                ours.send(2_000)
                with trio.fail_after(PATIENCE_S):
                    seen.append(await anext(events))
                event = seen[-1].event
                assert isinstance(event, Output)
                took_ms.append((time.monotonic_ns() - int(event.data.split()[0])) / 1e6)
                segments = received(ours, "an answer")

    assert gapless(seen)
    assert segments > 3
    assert_prompt(took_ms)


async def test_this_process_s_commits_are_each_seen_at_once(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the writer's own word, without inotify and without a safety net."""
    monkeypatch.setattr("inotify_simple.INotify", no_inotify)
    monkeypatch.setattr(subscription_module, "POLL_S", 3600.0)
    events = log.subscribe(after=0)
    took_ms: list[float] = []
    for number in range(300):
        async with trio.open_nursery() as nursery:
            began = time.monotonic_ns()
            nursery.start_soon(say, log, str(number))
            with trio.fail_after(PATIENCE_S):
                assert (await anext(events)).position == number + 1
            took_ms.append((time.monotonic_ns() - began) / 1e6)

    assert_prompt(took_ms)


def assert_prompt(took_ms: list[float]) -> None:
    """A busy machine may hold up a few; who slept past a commit would be found 500 ms later."""
    took_ms.sort()
    told = f"p50 {statistics.median(took_ms):.1f} ms, the slowest {[round(ms, 1) for ms in took_ms[-10:]]}"
    assert statistics.median(took_ms) < 50, told
    assert len([ms for ms in took_ms if ms > 100]) <= len(took_ms) // 20, told


def no_inotify(**_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


async def test_where_the_user_s_inotify_instances_are_used_up_a_subscriber_polls(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives a user 128; the 129th process on a home could not open the log at all."""
    monkeypatch.setattr("inotify_simple.INotify", no_inotify)
    monkeypatch.setattr(subscription_module, "SAFETY_NET_S", 3600.0)
    await append_outputs(log, 1)
    events = log.subscribe(after=0)
    assert (await anext(events)).position == 1

    with running(write_lines, log.store.directory, "writer", 200, TINY_CAP_BYTES):
        seen = [await anext(events) for _ in range(200)]

    assert gapless(seen, first=2)


async def test_another_process_s_events_are_seen_once_and_in_order_through_roll_overs(log: EventLog) -> None:
    seen: list[Recorded] = []
    with running(write_lines, log.store.directory, "writer", 5_000, TINY_CAP_BYTES):
        async for event in log.subscribe(after=0):
            seen.append(event)
            if len(seen) == 1 + 5_000 + 100 + 1:
                break

    assert gapless(seen)
    assert numbers("writer", lines_of(seen))
    assert len(log.store.segments()) > 3


async def test_one_inotify_descriptor_serves_all_and_watches_do_not_add_up(tmp_path: Path) -> None:
    before = inotify_watches()
    async with open_log(tmp_path / "log", cap_bytes=1) as log:
        assert inotify_watches() == before, "a log that nobody follows watches nothing"
        subscriptions = [log.subscribe(after=0) for _ in range(20)]
        async with trio.open_nursery() as nursery:
            for events in subscriptions:
                nursery.start_soon(follow_until, events, 40)
            for number in range(40):
                await log.append(None, RulesChanged(str(number), ""), at_ns=0, elapsed_ns=0)
                while any(events.position < number + 1 for events in subscriptions):
                    await trio.sleep(0.001)
        assert len(log.store.segments()) == 40
        [watches] = [count for fd, count in inotify_watches().items() if fd not in before]
        assert watches <= 7
    assert inotify_watches() == before


async def follow_until(events: Subscription, position: int) -> None:
    async for event in events:
        if event.position == position:
            return


def inotify_watches() -> dict[str, int]:
    """This process's inotify descriptors, and how many watches each has."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:inotify":
                found[fd] = len(re.findall(r"^inotify wd:", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE))
        except FileNotFoundError:
            pass  # the listing's own
    return found


async def test_a_subscriber_goes_on_when_segments_it_has_read_are_deleted(log: EventLog) -> None:
    await append_outputs(log, 10)
    events = log.subscribe(after=0)
    seen = [await anext(events) for _ in range(10)]
    for _ in range(3):
        while len(log.store.segments()) < 3:
            await append_outputs(log, 300)
        seen += [await anext(events) for _ in range(log.head() - seen[-1].position)]
        for first in log.store.segments()[:-1]:
            shutil.rmtree(log.store.directory / f"{first:020d}")

    await say(log, "live")
    seen.append(await anext(events))
    assert gapless(seen)


async def test_a_subscriber_that_waits_holds_no_snapshot(log: EventLog) -> None:
    """A held one keeps every page from being used again."""
    await append_outputs(log, 10)
    events = log.subscribe(after=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow_until, events, 1_000_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with log.store.newest() as segment:
            held = [line.split() for line in segment._env.readers().splitlines()[1:]]
            assert all(slot[2] == "-" for slot in held)
        nursery.cancel_scope.cancel()


async def test_a_reader_sees_only_what_is_committed(log: EventLog) -> None:
    """Looked at from within the transaction that writes it."""
    append(log.store, SESSION, started())
    heads: list[int] = []

    def build(_: object) -> list[object]:
        heads.append(log.store.head())
        return stored(SESSION, output(b"x"))  # type: ignore[return-value]

    positions = await log.submit(build)  # type: ignore[arg-type]

    assert (heads, positions, log.head()) == ([1], [2], 2)
