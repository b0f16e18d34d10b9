"""One thread reads every terminal and pipe of a recorder; a trio task a read reached 0.38 of script(1)'s speed.

A descriptor is read until its next read would block, at the most 256 KiB at a time so that others get their turn, and
only while the log has room: with a slow disk nothing is read, the terminal fills and the child waits.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from eventlog.events import Stream
from eventlog.writer import Writer
from server.recorder.recording import Recording

READ_BYTES = 65_536  # a Linux pipe's capacity
TURN_BYTES = 256 << 10
LAST_TURN_BYTES = 1 << 20  # /proc/sys/fs/pipe-max-size: more cannot have been waiting
LAST_WAIT_MS = 20  # bytes on their way through the tty layer, when the end of reading has been ordered


class Source:
    """One descriptor to read. *show* gets every read as it comes; *ended* is called once, on the pump's thread."""

    def __init__(
        self,
        fd: int,
        stream: Stream,
        recording: Recording,
        show: Callable[[Stream, bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self.fd = fd
        self.stream = stream
        self.recording = recording
        self.show = show
        self.ended = ended
        self.finishing = False


class Pump:
    """The reading thread. ``add`` and ``finish`` may be called from any thread."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._sources: dict[int, Source] = {}
        # One buffer for all reads: os.read allocates 64 KB for the 4 KB that a terminal gives, and faults them in.
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._buffers = [self._buffer]
        self._closing = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pump", daemon=True)
        self._thread.start()

    def add(self, source: Source) -> None:
        os.set_blocking(source.fd, False)
        self._sources[source.fd] = source
        self._epoll.register(source.fd, select.EPOLLIN)

    def finish(self, source: Source) -> None:
        """Read what is there now, then end, whoever may still hold the other side open."""
        source.finishing = True
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End the thread; every source has ended before."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def _run(self) -> None:
        try:
            self._read_all()
        except BaseException as error:  # a bug, or a log that is no more: whoever waits for an end learns it
            self.error = error
            for source in list(self._sources.values()):
                source.ended()
            raise

    def _read_all(self) -> None:
        paused: set[int] = set()  # sources that had more to read when their turn was over
        while not self._closing:
            ready = {fd for fd, _ in self._epoll.poll(0 if paused else -1)}
            if self._wake in ready:
                os.eventfd_read(self._wake)
                ready.discard(self._wake)
            for fd in paused - ready:
                if source := self._sources.get(fd):
                    source.recording.flush()
            finishing = {fd for fd, source in list(self._sources.items()) if source.finishing}
            paused = {fd for fd in ready | finishing if self._turn(self._sources[fd])}

    def _turn(self, source: Source) -> bool:
        """Read *source* until it would block; True: its turn is over before that."""
        taken = 0
        waited = False
        while taken < (LAST_TURN_BYTES if source.finishing else TURN_BYTES):
            if not self._writer.wait_for_room(0.0):
                source.recording.flush()
                self._writer.wait_for_room()
            try:
                size = os.readv(source.fd, self._buffers)
            except BlockingIOError:
                source.recording.flush()
                if not source.finishing:
                    return False
                if waited or not self._wait_for_last(source):
                    break
                waited = True
                continue
            except OSError:  # EIO: every holder of the terminal's other side is gone, which is its end of file
                size = 0
            if not size:
                break
            data = bytes(self._buffer[:size])
            source.recording.output(source.stream, data)
            source.show(source.stream, data)
            taken += len(data)
        else:
            if not source.finishing:
                return True
        self._end(source)
        return False

    def _wait_for_last(self, source: Source) -> bool:
        poll = select.poll()
        poll.register(source.fd, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(LAST_WAIT_MS))

    def _end(self, source: Source) -> None:
        self._epoll.unregister(source.fd)
        del self._sources[source.fd]
        source.recording.flush()
        source.ended()
