"""Times as users write them, and as people read them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.jsonform import rfc3339
from tools.cli.output import UsageError
from tools.cli.times import ago, duration_s, session_ns, span, wall_ns

STARTED_NS = 1_795_342_500_000_000_000  # 2026-11-22T10:15:00Z
S = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("7d", 604_800),
        ("1w", 604_800),
    ],
)
def test_a_duration_is_a_number_with_units(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-5", "5 m", "1y", "2h3", "1e3", "inf", "nan"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration") as refused:
        duration_s(text)
    assert refused.value.hint


@given(st.integers(0, 4_000_000_000 * S))
def test_the_times_we_print_are_read_back_exactly(at_ns: int) -> None:
    """To the nanosecond: an event's own time given as ``--to`` includes that event."""
    assert wall_ns(rfc3339(at_ns)) == at_ns


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [
        ("2026-11-22T10:15:00Z", STARTED_NS),
        ("2026-11-22T11:15:00+01:00", STARTED_NS),
        ("2026-11-22 10:15:00.5Z", STARTED_NS + S // 2),
        ("2026-11-22T10:15:00.000000001Z", STARTED_NS + 1),
        ("2026-11-22T10:15:00,25+00:00", STARTED_NS + S // 4),
    ],
)
def test_a_moment_is_rfc_3339(text: str, at_ns: int) -> None:
    assert wall_ns(text) == at_ns


def test_a_moment_without_a_zone_is_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    try:
        assert wall_ns("2026-11-22T12:15:00") == STARTED_NS
        assert wall_ns("2026-11-22") == STARTED_NS - (12 * 60 + 15) * 60 * S
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_duration_ago_is_before_now() -> None:
    assert wall_ns("2h") == pytest.approx(time.time_ns() - 7200 * S, abs=5 * S)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-11-22T25:00:00Z", "", "10:15"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time") as refused:
        wall_ns(text)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "elapsed_ns"),
    [
        ("12.5", 12_500_000_000),
        ("0", 0),
        ("2m", 480 * S),  # before its end
        ("2h", 0),
        ("2026-11-22T10:15:01.000000007Z", S + 7),
        ("2026-11-22T10:14:00Z", 0),
    ],
)
def test_a_place_in_a_session(text: str, elapsed_ns: int) -> None:
    assert session_ns(text, started_at_ns=STARTED_NS, now_elapsed_ns=600 * S) == elapsed_ns


@pytest.mark.parametrize("text", ["-1", "end", "50%"])
def test_what_is_no_place_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="is not a place in a session") as refused:
        session_ns(text, started_at_ns=STARTED_NS, now_elapsed_ns=0)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, "0.0s"), (-3, "0.0s"), (59.94, "59.9s"), (60, "1m00s"), (3661, "1h01m"), (90_000, "1d01h")],
)
def test_seconds_as_people_say_them(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_how_long_ago() -> None:
    assert ago(None) == ""
    assert ago(rfc3339(time.time_ns() - 180 * S)) == "3m00s ago"
