"""What is decided inside the write transaction, with the session table at hand: builds for ``Store.append``."""

from __future__ import annotations

from eventlog.codec import Record
from eventlog.events import SessionStarted, State, StateChanged
from eventlog.segment import WriteTransaction
from eventlog.sessions import session_id
from eventlog.store import Build, Stored


def start(started: SessionStarted, at_ns: int, chosen: list[str]) -> Build:
    """A build that gives *started* a free id, which it appends to *chosen*."""

    def build(txn: WriteTransaction) -> list[Stored]:
        number = 1
        while txn.session_raw(session_id(started.agent, at_ns, number)) is not None:
            number += 1
        chosen.append(session_id(started.agent, at_ns, number))
        return [Stored(Record(chosen[-1], at_ns, 0, started))]

    return build


def change_state(session: str, to: State, reason: str, *, only_if: frozenset[str]) -> Build:
    """A build by someone who is not the session's recorder: it stamps the session's own last time.

    Nothing is recorded unless the session's state is one of *only_if* when the transaction looks.
    """

    def build(txn: WriteTransaction) -> list[Stored]:
        row = txn.session(session)[1]
        if row is None or row.state not in only_if:
            return []
        at_ns = row.started_at_ns + row.last_elapsed_ns
        return [Stored(Record(session, at_ns, row.last_elapsed_ns, StateChanged(row.state, to, reason)))]

    return build
