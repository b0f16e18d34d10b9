"""Replay: what was recorded, when it was recorded, at any speed. The pure part, and ``Replay``, which waits.

The schedule is absolute: a moment is due at an anchor plus its recorded distance from it over the speed, so errors of
single waits never add up. Pause, seek and a change of speed set a new anchor, at the very time they happen.

Times are recorded nanoseconds since the session's start (``elapsed_ns``); ``shown_ns`` is the same after long silences
have been cut to the idle limit. Clocks are ``trio.current_time()`` seconds, so a mock clock plays an hour in no time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import trio

from eventlog.codec import OutputRun, Record
from eventlog.events import OPEN_STATES, StateChanged, Stream
from eventlog.subscription import Subscription

BATCH_BYTES = 1 << 20  # what one ``next`` gives at the most, so that a pause or a stop is heard in between


class Moment(NamedTuple):
    """What one read brought, or one event that is not output (*data* empty, *stream* None)."""

    elapsed_ns: int
    stream: Stream | None
    data: bytes
    position: int  # of its last event
    record: Record


def moments(records: Iterable[Record]) -> Iterator[Moment]:
    """The moments of *records*: one a read(2), one an event of any other kind."""
    for record in records:
        event = record.event
        if not isinstance(event, OutputRun):
            yield Moment(record.elapsed_ns, None, b"", record.last, record)
            continue
        position = record.first - 1
        for elapsed_ns, lines in event.reads:
            position += len(lines)
            yield Moment(elapsed_ns, event.stream, b"".join(lines), position, record)


class IdleLimit:
    """Cuts silences: recorded time -> shown time. Fed with falling-free elapsed times, in order."""

    def __init__(self, limit_ns: int | None, elapsed_ns: int = 0) -> None:
        self._limit_ns = limit_ns
        self._last_ns = elapsed_ns
        self._cut_ns = 0

    def shown_ns(self, elapsed_ns: int) -> int:
        gap = elapsed_ns - self._last_ns
        if self._limit_ns is not None and gap > self._limit_ns:
            self._cut_ns += gap - self._limit_ns
        self._last_ns = max(self._last_ns, elapsed_ns)
        return elapsed_ns - self._cut_ns

    def seek(self, elapsed_ns: int) -> int:
        """The next silence counts from *elapsed_ns*; its shown time."""
        self._last_ns = elapsed_ns
        return elapsed_ns - self._cut_ns


class Pace:
    """Shown time <-> the clock, by one anchor. *speed* None: everything is due at once."""

    def __init__(self, speed: float | None, now_s: float, shown_ns: int = 0) -> None:
        self.speed = speed
        self.paused = False
        self._now_s = now_s
        self._shown_ns = float(shown_ns)

    def due_s(self, shown_ns: int) -> float:
        """When *shown_ns* is due; never while paused."""
        if self.paused:
            return float("inf")
        if self.speed is None:
            return self._now_s
        return self._now_s + (shown_ns - self._shown_ns) / 1e9 / self.speed

    def shown_ns(self, now_s: float) -> float:
        """What is being shown at *now_s*."""
        if self.paused or self.speed is None:
            return self._shown_ns
        return self._shown_ns + (now_s - self._now_s) * 1e9 * self.speed

    def pause(self, now_s: float) -> None:
        self.seek(now_s, self.shown_ns(now_s))
        self.paused = True

    def resume(self, now_s: float) -> None:
        self._now_s = now_s
        self.paused = False

    def set_speed(self, now_s: float, speed: float | None) -> None:
        self.seek(now_s, self.shown_ns(now_s))
        self.speed = speed

    def seek(self, now_s: float, shown_ns: float) -> None:
        self._now_s, self._shown_ns = now_s, shown_ns


class Replay:
    """One session being played from a subscription that begins at its beginning, or somewhere in it.

    ``next`` gives moments as they are due. ``reset`` is true where they must be shown on a terminal that was reset,
    because a seek went back. With *follow* the end of what is there is not the end: it goes on live.
    """

    def __init__(
        self,
        source: Subscription,
        *,
        speed: float | None = 1.0,
        from_ns: int = 0,
        to_ns: int | None = None,
        idle_limit_ns: int | None = None,
        show_before: bool = False,
        follow: bool = False,
    ) -> None:
        now_s = trio.current_time()
        self._source = source
        self._begin = source.position
        self._to_ns = to_ns
        self._follow = follow
        self._waiting: deque[tuple[int, Moment]] = deque()
        self._idle = IdleLimit(idle_limit_ns, from_ns)
        self._target_ns = from_ns  # what comes before it is shown at once, or not at all
        self._show_before = show_before
        self._drop_before_ns = 0 if show_before else from_ns
        self._changed = trio.Event()
        self._filling = trio.CancelScope()
        self._steps = 0
        self._live = False
        self._ended = False
        self._head = None if follow else source.head()
        self.pace = Pace(speed, now_s, from_ns)
        self.reset = False
        self._elapsed_ns = from_ns  # of the last moment given
        self._shown_ns = float(from_ns)

    def elapsed_ns(self) -> int:
        """Where in the session this is: at the last moment shown, or in the silence after it."""
        if not self._waiting:
            return self._elapsed_ns  # at the end of what there is
        silent_ns = max(0.0, self.pace.shown_ns(trio.current_time()) - self._shown_ns)
        return int(min(self._elapsed_ns + silent_ns, self._waiting[0][1].elapsed_ns))

    # -- control: from the same trio thread ------------------------------------------------------------------------

    def pause(self) -> None:
        self.pace.pause(trio.current_time())
        self._live = False
        self._wake()

    def resume(self) -> None:
        self.pace.resume(trio.current_time())
        self._wake()

    def set_speed(self, speed: float | None) -> None:
        self.pace.set_speed(trio.current_time(), speed)
        self._wake()

    def step(self, count: int = 1) -> None:
        """Show the next *count* moments of output, though paused."""
        self._steps += count
        self._wake()

    def seek(self, elapsed_ns: int) -> None:
        """Go to *elapsed_ns*: what lies before it is shown at once, from the beginning where it lies behind."""
        elapsed_ns = max(0, elapsed_ns)
        if elapsed_ns < self._elapsed_ns:
            self._source.seek(self._begin)
            self._waiting.clear()
            self._ended = False
            self.reset = True
        self._live = False
        self._target_ns = elapsed_ns
        self._drop_before_ns = 0
        self._elapsed_ns = elapsed_ns
        self._shown_ns = self._idle.seek(elapsed_ns)
        self._waiting = deque((self._shown_at(moment), moment) for _, moment in self._waiting)
        self.pace.seek(trio.current_time(), self._shown_ns)
        self._wake()

    def stop(self) -> None:
        self._ended = True
        self._waiting.clear()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self._filling.cancel()

    # -- what is due -----------------------------------------------------------------------------------------------

    async def next(self) -> list[Moment] | None:
        """The moments that are due now, at least one; None: it has ended."""
        while True:
            changed = self._changed
            if not self._waiting:
                with trio.CancelScope() as self._filling:  # whatever is asked of us ends the wait for more
                    if not await self._fill():
                        return None
                continue
            due = self._take_due()
            if due:
                await trio.lowlevel.checkpoint()
                return due
            with trio.move_on_at(self.pace.due_s(self._waiting[0][0])):
                await changed.wait()

    def _take_due(self) -> list[Moment]:
        now_s = trio.current_time()
        taken: list[Moment] = []
        size = 0
        while self._waiting and size < BATCH_BYTES:
            shown_ns, moment = self._waiting[0]
            at_once = moment.elapsed_ns <= self._target_ns or (self._live and not self.pace.paused)
            if not at_once and self.pace.due_s(shown_ns) > now_s:
                if not self._steps:
                    break
                # A step moves the schedule along: what follows is due as long after it as it was recorded.
                self.pace.seek(now_s, shown_ns)
                self._steps -= moment.stream is not None
            self._waiting.popleft()
            self._elapsed_ns = max(self._target_ns, moment.elapsed_ns)
            self._shown_ns = shown_ns
            taken.append(moment)
            size += len(moment.data)
        return taken

    async def _fill(self) -> bool:
        """Read on; False: there is no more, and will not be."""
        if self._ended or (self._head is not None and self._source.position >= self._head):
            return False
        was_caught_up = self._source.caught_up
        records = await self._source.next()
        if not records and not was_caught_up and self._follow:
            self._live = not self.pace.paused  # the end of what is there: from here on as it comes
        for moment in moments(records):
            event = moment.record.event
            past_the_head = self._head is not None and moment.position > self._head  # a page ends where the log does
            if past_the_head or (self._to_ns is not None and moment.elapsed_ns > self._to_ns):
                self._ended = True
                break
            if moment.elapsed_ns < self._drop_before_ns:
                continue
            self._waiting.append((self._shown_at(moment), moment))
            if isinstance(event, StateChanged) and event.to not in OPEN_STATES:
                self._ended = True
        return True

    def _shown_at(self, moment: Moment) -> int:
        """What lies before a seek's target is shown at once, so no silence of it counts."""
        return self._idle.shown_ns(max(moment.elapsed_ns, self._target_ns))
