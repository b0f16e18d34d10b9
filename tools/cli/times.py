"""Times as users write them: RFC 3339, a duration ago (``2h``), seconds into a session; and as people read them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from tools.cli.output import UsageError

UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


def duration_s(text: str) -> float:
    """``90s``, ``1h30m``, ``7d``; a bare number is seconds.

    Raises:
        UsageError: it is none.
    """
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise UsageError(f"'{text}' is not a duration", "a number with a unit: 90s, 15m, 2h, 7d, 1h30m")
    return sum(float(number) * UNITS_S[unit] for number, unit in _DURATION.findall(text))


def wall_ns(text: str) -> int:
    """A moment in nanoseconds since 1970: RFC 3339, or a duration before now."""
    moment = _rfc3339_ns(text)
    if moment is not None:
        return moment
    try:
        return time.time_ns() - round(duration_s(text) * 1e9)
    except UsageError:
        raise UsageError(f"'{text}' is not a time", "2026-11-22T10:15:00Z, or a duration ago: 2h") from None


def session_ns(text: str, *, started_at_ns: int, now_elapsed_ns: int) -> int:
    """A place in a session as ``elapsed_ns``: seconds into it, RFC 3339, or a duration before its end (``2m``)."""
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return round(float(text) * 1e9)
    moment = _rfc3339_ns(text)
    if moment is not None:
        return max(0, moment - started_at_ns)
    try:
        return max(0, now_elapsed_ns - round(duration_s(text) * 1e9))
    except UsageError:
        raise UsageError(
            f"'{text}' is not a place in a session",
            "seconds into it: 12.5, or 2026-11-22T10:15:00Z, or 2m before its end",
        ) from None


def _rfc3339_ns(text: str) -> int | None:
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.astimezone()  # as the clock on the wall says
    except (ValueError, OverflowError):
        return None
    fraction = re.search(r"[.,](\d+)", text)  # datetime ends at microseconds, and our own times have nine digits
    whole = moment.replace(microsecond=0)
    return int(whole.timestamp()) * 1_000_000_000 + int(fraction[1][:9].ljust(9, "0") if fraction else 0)


def ago(at: str | None) -> str:
    """An RFC 3339 time as ``3m ago``."""
    if at is None:
        return ""
    moment = datetime.fromisoformat(at[:26] + "Z").astimezone(UTC)
    return f"{span((datetime.now(UTC) - moment).total_seconds())} ago"


def span(seconds: float | None) -> str:
    """Seconds as people say them, with two units at the most."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.1f}s"
    for unit, small, factor in (("d", "h", 86_400), ("h", "m", 3600), ("m", "s", 60)):
        if seconds >= factor:
            size = UNITS_S[small]
            return f"{int(seconds // factor)}{unit}{int(seconds % factor // size):02d}{small}"
    raise AssertionError(seconds)
