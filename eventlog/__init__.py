"""The event log: an append-only, durable, totally ordered record of what command-line agents did.

Promises
    Order       Every event has a position: 1, 2, 3 … without gaps, given inside the write transaction. Commit order is
                position order is visibility order, across any number of processes.
    Durability  An event is visible to readers only after fsync. Killing any process at any moment loses nothing that
                any reader has seen, and never leaves half a batch.
    Exactness   Output is stored as the bytes read, in runs of lines (codec.py). Each record carries a checksum.
    No gaps     A subscriber sees each event once, in order, from any position into live (subscription.py).
    No edits    Stored bytes are never rewritten; retention deletes whole segments (prune.py).

Files
    <log>/<20-digit first position>/data.mdb   one LMDB environment a segment (segment.py), chained (store.py)

The way in: ``open_log`` for trio programs (log.py), ``Store`` for blocking ones. events.py holds the facts.
This package knows events and disks, and nothing of processes, terminals or HTTP.
"""

from eventlog.codec import Record
from eventlog.errors import (
    EventDecodeError,
    EventLogError,
    LogFormatError,
    LogRefusedError,
    SegmentError,
    UnknownSessionError,
)
from eventlog.sessions import Session
from eventlog.store import Store

__all__ = [
    "EventDecodeError",
    "EventLogError",
    "LogFormatError",
    "LogRefusedError",
    "Record",
    "SegmentError",
    "Session",
    "Store",
    "UnknownSessionError",
]
