"""Every error of the package, by fault: each has attributes, not only text."""

from __future__ import annotations

from pathlib import Path


class EventLogError(Exception):
    """What all errors of this package are."""

    hint: str | None = None  # what the reader may try, for the command line's second line


class LogFormatError(EventLogError):
    """The log was written by a newer program."""

    def __init__(self, found: int, supported: int) -> None:
        super().__init__(f"the log has format {found}, this program reads up to {supported}")
        self.found = found
        self.supported = supported
        self.hint = "upgrade steno: pip install --upgrade steno"


class EventDecodeError(EventLogError):
    """One stored record is damaged. What stands before it is readable, and nothing is skipped silently."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"position {position}: {reason}")
        self.position = position
        self.reason = reason
        self.hint = "steno verify names every damaged record"


class SegmentError(EventLogError):
    """A segment's file is not what its name or its header says."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.hint = "steno verify names what is damaged; a backup holds what was there"


class LogRefusedError(EventLogError):
    """The place cannot hold a log: not a local file system, another kernel, another pid namespace."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.hint = "steno --home DIR with a directory on a local disk"


class UnknownSessionError(EventLogError):
    """No session of that name in the session table."""

    def __init__(self, session: str) -> None:
        super().__init__(f"no session '{session}'")
        self.session = session
        self.hint = "steno sessions"
