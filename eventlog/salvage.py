"""What can still be read of a segment that LMDB refuses: its records, found page by page in what is left of the file.

LMDB reads a file from its root, and the root moves at every commit: cut data.mdb in half and it is usually lost. The
leaves are not. Records only ever come behind the last one, so a full leaf never moves again, every record carries a
checksum, and its key is its position: the leaves in order of their first key are the log, up to the first gap.

Layout, host byte order, 64 bit (mdb.c of LMDB 0.9: ``MDB_page``, ``MDB_node``, ``MDB_meta``; py-lmdb's lmdb/verify.py
walks the same bytes):

    page      u64 its own number, u16 -, u16 flags, u16 lower, u16 upper, then a u16 offset for each node
    node      u32 size of the data, u16 flags, u16 size of the key, key, data
    overflow  data of more than half a page: the node (F_BIGDATA) holds the number of the first of some pages in a row;
              only that one has a header, with their number (u32) for lower and upper
    meta      pages 0 and 1, in turns: magic, version, address, map size, page size … last page, transaction id

What is believed. A leaf that was copied and freed still stands somewhere with fewer records: they are the same, for a
position is given once. The pages a killed writer wrote and never committed may stand there too: what lies beyond the
last page of the last commit is not looked at, and where two leaves differ about a position, nothing from it on is
believed. Pages inside an overflow run are skipped, since there a child's output could look like a leaf: LMDB hands
out free pages from the lowest number up, so a run's header never outlives the rest of it.

The file is read with pread(2), never mapped: a page that is not there is a short read and no SIGBUS.
"""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from eventlog.codec import CHECKSUM_BYTES, TYPE_OFFSET, Record, decode, is_of, session_prefix
from eventlog.errors import EventDecodeError, SegmentError
from eventlog.segment import DEFAULT_CAP_BYTES, Page, unpack_position
from eventlog.sessions import Session, fold

_PAGE = struct.Struct("=QHHHH")
_NODE = struct.Struct("=IHH")
_META = struct.Struct("=16xI20xI92xQQ")
_U16, _U32, _U64 = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q")
MAGIC = 0xBEEFC0DE
P_LEAF, P_OVERFLOW = 0x02, 0x04
F_BIGDATA = 0x01


class _Node(NamedTuple):
    key: bytes
    size: int
    flags: int
    start: int  # of the data, in its page


class _File:
    """A data.mdb as pages and nodes. Whatever its bytes are, reading them raises nothing but OSError."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._fd).st_size
        self.page_bytes = mmap.PAGESIZE
        commits = [meta for number in (0, 1) if (meta := self._meta(number)) is not None]
        pages = size // self.page_bytes
        self.pages = min(pages, max(commits)[1] + 1) if commits else pages

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)

    def _meta(self, number: int) -> tuple[int, int] | None:
        """(transaction id, last page) of a meta page; page 0 tells the size of the pages."""
        data = os.pread(self._fd, _META.size, number * self.page_bytes)
        if len(data) < _META.size:
            return None
        magic, page_bytes, last, transaction = _META.unpack(data)
        if magic != MAGIC or page_bytes not in (1 << shift for shift in range(9, 17)):
            return None
        self.page_bytes = page_bytes
        return transaction, last

    def page(self, number: int) -> bytes:
        return os.pread(self._fd, self.page_bytes, number * self.page_bytes)

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        number = 2
        while number < self.pages:
            page = self.page(number)
            if len(page) < self.page_bytes:
                return
            own, _, flags, _, _ = _PAGE.unpack_from(page)
            if own == number and flags == P_OVERFLOW:
                number += max(1, _U32.unpack_from(page, _PAGE.size - 4)[0])
                continue
            if own == number and flags == P_LEAF:
                yield number, page
            number += 1

    def nodes(self, page: bytes) -> Iterator[_Node]:
        lower = _PAGE.unpack_from(page)[3]
        for at in range(_PAGE.size, min(lower, len(page)) - 1, 2):
            offset = _U16.unpack_from(page, at)[0]
            if offset + _NODE.size > len(page):
                continue
            size, flags, key_size = _NODE.unpack_from(page, offset)
            start = offset + _NODE.size + key_size
            yield _Node(page[offset + _NODE.size : start], size, flags, start)

    def value(self, page: bytes, node: _Node) -> bytes:
        """The node's data; b"", which is no record, where it is not there."""
        if node.flags == 0:
            return page[node.start : node.start + node.size]
        if node.flags != F_BIGDATA or node.start + _U64.size > len(page):
            return b""
        number = _U64.unpack_from(page, node.start)[0]
        if number >= self.pages:
            return b""
        data = os.pread(self._fd, _PAGE.size + node.size, number * self.page_bytes)
        return data[_PAGE.size :]  # whatever is there now, or too little of it: the checksum tells


class _Extent(NamedTuple):
    """The records from key *low* to key *high* stand in page *number*."""

    low: int
    high: int
    number: int


class _Found(NamedTuple):
    extents: list[_Extent]
    head: int
    log_id: str


def _search(path: Path, first: int) -> _Found:
    """The longest run of records without a gap, from position *first* on; memory is a few words a page."""
    leaves: list[tuple[int, int, int]] = []
    log_id = ""
    try:
        file = _File(path)
    except FileNotFoundError:
        return _Found([], first - 1, log_id)
    with file:
        for number, page in file.leaves():
            nodes = list(file.nodes(page))
            if nodes and all(len(node.key) == _U64.size for node in nodes):
                leaves.append((_position(nodes[0]), -_position(nodes[-1]), number))
            for node in nodes:
                if node.key == b"log":
                    log_id = _log_id(file.value(page, node))
        extents: list[_Extent] = []
        head = first - 1
        disputed: list[int] = []
        believed: dict[int, tuple[int, bytes]] = {}  # of leaves that may have copies: key -> first, checksum
        for low, _, number in sorted(leaves):
            believed = {key: known for key, known in believed.items() if key >= low}
            page = file.page(number)
            begun = head
            for node in file.nodes(page):
                last, value = _position(node), file.value(page, node)
                known = believed.get(last)
                if known is not None and known[1] == value[-CHECKSUM_BYTES:]:
                    continue
                try:
                    record = decode(last, value)
                except EventDecodeError:
                    break  # freed pages of other tables end here; so does a damaged leaf, unless a copy goes on
                if last <= head:  # the same position, recorded twice: which of the two was committed?
                    disputed = [record.first, *(begins for key, (begins, _) in believed.items() if key >= last)]
                    head = min(disputed) - 1
                    break
                if record.first != head + 1:
                    break
                head = last
                believed[last] = (record.first, value[-CHECKSUM_BYTES:])
            if head > begun:
                extents.append(_Extent(begun + 1, head, number))
            if disputed:
                break
    return _Found(extents, head, log_id)


def _position(node: _Node) -> int:
    return int(unpack_position(node.key)[0])


def _log_id(value: bytes) -> str:
    try:
        return msgspec.msgpack.decode(value, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


class Salvaged:
    """Stands in for a ``Segment`` that cannot be opened: reads what is left, and writes nothing.

    *error* is why. *carried* gives the session table as the segment before left it: the segment's own was lost with
    its tree and is folded again. The file is searched when something is first asked for, some seconds for a GiB.
    """

    cap_bytes = DEFAULT_CAP_BYTES

    def __init__(
        self, path: Path, error: SegmentError, carried: Callable[[], list[tuple[bytes, bytes]]] = list
    ) -> None:
        self.path = path
        self.first = int(path.name)
        self.error = error
        self._carried = carried

    @cached_property
    def _found(self) -> _Found:
        return _search(self.path / "data.mdb", self.first)

    @property
    def log_id(self) -> str:
        """The log's id; "" where its page is lost too."""
        return self._found.log_id

    # -- reading ---------------------------------------------------------------------------------------------------

    def head(self) -> int:
        """The last position that can be read; ``first - 1`` where there is none."""
        return self._found.head

    def sealed(self) -> int | None:
        return None

    def last_txn_id(self) -> int:
        return 0

    def used_bytes(self) -> int:
        return 0

    def read(self, after: int, max_bytes: int, session: str | None = None, tags: frozenset[int] | None = None) -> Page:
        """As ``Segment.read``, up to ``head()``.

        Raises:
            EventDecodeError: all that is left was read; its position is the one after.
        """
        head = self.head()
        if after >= head:
            raise EventDecodeError(head + 1, f"the segment cannot be read on from here: {self.error.reason}")
        prefix = b"" if session is None else session_prefix(session)
        records: list[Record] = []
        position = after
        read_bytes = 0
        for last, value in self._values(after):
            position = last
            if (not prefix or is_of(value, prefix)) and (tags is None or value[TYPE_OFFSET] in tags):
                records.append(decode(last, value))
                read_bytes += len(value)
                if read_bytes >= max_bytes:
                    break
        if records and records[0].first <= after:
            kept = records[0].after(after)
            records[:1] = [] if kept is None else [kept]
        return Page(records, position, 0)

    def _values(self, after: int) -> Iterator[tuple[int, bytes]]:
        extents, head, _ = self._found
        if after >= head:
            return
        with _File(self.path / "data.mdb") as file:
            for low, high, number in extents[bisect_left(extents, after + 1, key=lambda extent: extent.high) :]:
                page = file.page(number)
                for node in file.nodes(page):
                    last = _position(node)
                    if max(low, after + 1) <= last <= min(high, head):
                        yield last, file.value(page, node)

    def value(self, last: int) -> bytes | None:
        return next((value for key, value in self._values(last - 1) if key == last), None)

    def position_at(self, session: str, elapsed_ns: int) -> tuple[int, int] | None:
        """As ``Segment.position_at``; without the index it is always where the session first appears."""
        prefix = session_prefix(session)
        for last, value in self._values(self.first - 1):
            if is_of(value, prefix):
                record = decode(last, value)
                return record.first, record.elapsed_ns
        return None

    @cached_property
    def _rows(self) -> dict[str, Session]:
        rows = {key.decode(): msgspec.msgpack.decode(value, type=Session) for key, value in self._carried()}
        for last, value in self._values(self.first - 1):
            record = decode(last, value)
            if record.session is not None and (row := fold(rows.get(record.session), record)) is not None:
                rows[record.session] = row
        return rows

    def session(self, session: str) -> Session | None:
        return self._rows.get(session)

    def sessions(self) -> list[Session]:
        return list(self._rows.values())

    def session_items(self) -> list[tuple[bytes, bytes]]:
        return sorted((name.encode(), msgspec.msgpack.encode(row)) for name, row in self._rows.items())

    # -- writing, and lifetime: nothing is held open ---------------------------------------------------------------

    def _refuse(self) -> NoReturn:
        raise SegmentError(self.path, self.error.reason)

    def write(self) -> NoReturn:
        self._refuse()

    def seal(self) -> NoReturn:
        self._refuse()

    def copy(self, destination: Path) -> NoReturn:
        self._refuse()

    def in_use(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close_if_idle(self) -> bool:
        return True

    def close(self, timeout_s: float | None = None) -> bool:
        return True
