"""Who is alive, as anyone on the home can tell; and what becomes of a session whose recorder is not."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from eventlog.codec import records_of
from eventlog.decisions import start
from eventlog.errors import LogRefusedError
from eventlog.events import Output, SessionStarted, StateChanged
from eventlog.store import Store, Stored
from eventlog.verify import verify
from server.recorder.lock import RecorderLock, claim_kernel, is_alive, is_lost, settle_lost
from tests.server.recorder.helpers import wait_until

BEGAN_NS = 1_795_342_500_000_000_000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "log") as store:
        yield store


def session_of(store: Store, recorder: str, agent: str = "agent") -> str:
    """An open session that *recorder* records; it has said something after 7 ns."""
    chosen: list[str] = []
    started = SessionStarted(agent, ["true"], "/", "pty", 80, 24, "host", {}, recorder, "cli")
    store.append([start(started, BEGAN_NS, chosen)])
    events = [StateChanged("starting", "running", "started", 1), Output("pty", b"hello\n")]
    store.append([[Stored(record) for record in records_of(chosen[-1], BEGAN_NS + 7, 7, events)]])
    return chosen[-1]


def states(store: Store) -> dict[str, str]:
    return {row.session: row.state for row in store.sessions()}


def test_a_recorder_is_alive_while_it_holds_its_lock(run: Path) -> None:
    lock = RecorderLock(run)
    assert is_alive(run, lock.name)
    assert is_alive(run, lock.name), "to ask does not take it"

    lock.release()
    assert not is_alive(run, lock.name)
    assert list(run.iterdir()) == []


def test_its_name_and_file_say_which_process_it_is(run: Path) -> None:
    lock = RecorderLock(run)
    [path] = run.iterdir()

    assert lock.name.startswith(f"{os.getpid()}-")
    assert json.loads(path.read_text()) == {"pid": os.getpid()}
    assert path.stat().st_mode & 0o777 == 0o600
    lock.release()


def test_no_two_recorders_have_one_name(run: Path) -> None:
    locks = [RecorderLock(run) for _ in range(20)]

    assert len({lock.name for lock in locks}) == 20
    for lock in locks:
        lock.release()


@pytest.mark.parametrize("name", ["", "1-nobody", "../../etc/passwd", "a/b", "."])
def test_a_recorder_that_never_was_is_not_alive(run: Path, name: str) -> None:
    assert not is_alive(run, name)


def test_those_who_ask_at_once_do_not_take_each_other_for_the_recorder(run: Path) -> None:
    lock = RecorderLock(run)
    [path] = run.iterdir()
    os.close(lock._fd)  # it ended without a word: the file stays, the lock is free
    wrong: list[bool] = []

    def ask() -> None:
        wrong.extend(is_alive(run, lock.name) for _ in range(500))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(wrong)
    assert path.exists()


def hold_and_wait(run: Path, told: Path) -> None:
    lock = RecorderLock(run)
    told.write_text(lock.name)
    signal.pause()


@contextmanager
def recorder(run: Path, told: Path) -> Iterator[tuple[str, int]]:
    """Another process that holds a lock: its name and pid."""
    process = multiprocessing.get_context("spawn").Process(target=hold_and_wait, args=(run, told), daemon=True)
    process.start()
    try:
        wait_until(lambda: told.exists() and told.read_text(), "it holds its lock")
        assert process.pid is not None
        yield told.read_text(), process.pid
    finally:
        process.kill()
        process.join()
        process.close()


def test_a_recorder_killed_at_once_is_dead_at_once_and_its_session_lost(
    tmp_path: Path, run: Path, store: Store
) -> None:
    with recorder(run, tmp_path / "told") as (name, pid):
        session = session_of(store, name)
        assert settle_lost(store, run) == []
        assert states(store) == {session: "running"}
        os.kill(pid, signal.SIGSTOP)
        assert settle_lost(store, run) == [], "a stopped recorder is alive"
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(run, name), "the kernel has freed the lock")

        assert settle_lost(store, run) == [session]
    assert states(store) == {session: "lost"}
    assert list(run.iterdir()) == []


def test_lost_is_recorded_once_at_the_sessions_own_last_time(run: Path, store: Store) -> None:
    session = session_of(store, "1-nobody")
    assert settle_lost(store, run) == [session]
    assert settle_lost(store, run) == []

    *_, last = [event for record in store.records() for event in record.events()]
    assert isinstance(last.event, StateChanged)
    assert (last.event.from_, last.event.to) == ("running", "lost")
    assert (last.elapsed_ns, last.at_ns) == (7, BEGAN_NS + 7)
    assert verify(store.directory) == []


def test_only_open_sessions_are_lost_and_only_those_of_the_dead(run: Path, store: Store) -> None:
    lock = RecorderLock(run)
    alive = session_of(store, lock.name, "alive")
    gone = session_of(store, "1-nobody", "gone")
    ended = session_of(store, "2-nobody", "ended")
    store.append([[Stored(r) for r in records_of(ended, 9, 9, [StateChanged("running", "exited", "exit code 0")])]])

    assert settle_lost(store, run) == [gone]
    assert states(store) == {alive: "running", gone: "lost", ended: "exited"}
    lock.release()


def test_a_session_whose_end_came_in_between_is_not_lost(run: Path, store: Store) -> None:
    """It is looked at again inside the write transaction: here the recorder's last commit is just before it."""
    session = session_of(store, "1-nobody")
    append = store.append

    def late(builds: object) -> object:
        store.append = append  # type: ignore[method-assign]
        end = [StateChanged("running", "exited", "exit code 0")]
        append([[Stored(record) for record in records_of(session, BEGAN_NS + 8, 8, end)]])
        return append(builds)  # type: ignore[arg-type]

    store.append = late  # type: ignore[assignment, method-assign]
    settle_lost(store, run)

    assert states(store) == {session: "exited"}


def test_a_log_that_cannot_be_written_keeps_no_reader_out(run: Path, store: Store) -> None:
    session = session_of(store, "1-nobody")
    append = store.append

    def full(builds: object) -> object:
        raise lmdb.DiskError("No space left on device")

    store.append = full  # type: ignore[assignment, method-assign]
    assert settle_lost(store, run) == [session]
    [row] = store.sessions()
    assert (row.state, is_lost(run, row)) == ("running", True)

    store.append = append  # type: ignore[method-assign]
    assert settle_lost(store, run) == [session]
    assert states(store) == {session: "lost"}


# -- one kernel, one pid namespace ---------------------------------------------------------------------------------


def test_a_home_stays_with_its_kernel(run: Path) -> None:
    claim_kernel(run)
    written = (run / "kernel").read_text()
    lock = RecorderLock(run)
    claim_kernel(run)

    assert (run / "kernel").read_text() == written
    lock.release()


def test_a_home_in_use_from_another_pid_namespace_is_refused(run: Path) -> None:
    (run / "kernel").write_text("another boot 4026531836")
    lock = RecorderLock(run)

    with pytest.raises(LogRefusedError, match="in use by recorders of another kernel or pid namespace"):
        claim_kernel(run)
    assert (run / "kernel").read_text() == "another boot 4026531836"
    lock.release()


def test_a_home_last_used_from_another_kernel_is_taken_over(run: Path) -> None:
    """After a reboot, say: the locks of then are free, whatever files they left."""
    (run / "kernel").write_text("another boot 4026531836")
    (run / "recorder-1-nobody.lock").touch()

    claim_kernel(run)
    assert (run / "kernel").read_text() != "another boot 4026531836"
    assert sorted(path.name for path in run.iterdir()) == ["kernel", "recorder-1-nobody.lock"]
