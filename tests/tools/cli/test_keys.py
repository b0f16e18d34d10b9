"""Keys of a replay, out of a stream in which the terminal also answers what recorded output asked it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.cli.keys import SPEEDS, Keys, _next_speed

KEYS: dict[bytes, list[str]] = {
    b"q": ["q"],
    b" ": [" "],
    b".": ["."],
    b"+": ["+"],
    b"-": ["-"],
    b"\x1b[C": ["right"],
    b"\x1b[D": ["left"],
    b"\x1bOC": ["right"],
    b"\x1bOD": ["left"],
}
# What terminals answer, and other keys: all with characters in them that would be keys of ours.
NOT_OURS = [
    b"\x1b[?62;4;22c",  # primary device attributes
    b"\x1b[>41;354;0c",  # secondary
    b"\x1b[12;40R",  # cursor position
    b"\x1b[?2004;1$y",  # mode report
    b"\x1b]11;rgb:1e1e/ q./ +-\x1b\\",  # a colour
    b"\x1b]0;a title. q\a",
    b"\x1bP>|XTerm q (. + -)\x1b\\",  # version
    b"\x1bP1$r0 q\x1b\\",  # cursor style
    b"\x1b_Gi=31;OK q\x1b\\",  # graphics
    b"\x1b^ q.\x1b\\",
    b"\x1bX q.\x1b\\",
    b"\x1b[A",
    b"\x1b[1;5C",
    b"\x1b[5~",
    b"\x1bOP",
    b"\x1b[I",  # focus
    b"\x1b[<0;32;7M",  # mouse
    b"\x1b[M q.",  # mouse, the old way: three bytes follow
    b"\x1bq",  # Alt-q
]


def pressed(pieces: list[bytes]) -> list[str]:
    keys = Keys()
    return [key for piece in pieces for key in keys.feed(piece)]


def cut(data: bytes, at: set[int]) -> list[bytes]:
    borders = [0, *sorted(place for place in at if place < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(borders)]


@pytest.mark.parametrize(("data", "names"), KEYS.items())
def test_a_key_has_a_name(data: bytes, names: list[str]) -> None:
    assert pressed([data]) == names


@pytest.mark.parametrize("answer", NOT_OURS)
def test_what_the_terminal_answers_is_no_key(answer: bytes) -> None:
    assert pressed([answer]) == []


@given(st.lists(st.sampled_from([*KEYS, *NOT_OURS]), max_size=12), st.sets(st.integers(1, 200)))
def test_sequences_may_be_cut_anywhere(sequences: list[bytes], at: set[int]) -> None:
    expected = [name for sequence in sequences for name in KEYS.get(sequence, [])]

    assert pressed(cut(b"".join(sequences), at)) == expected


@given(st.binary(max_size=50), st.sets(st.integers(1, 50)))
def test_whatever_comes_is_survived_and_cutting_changes_nothing(data: bytes, at: set[int]) -> None:
    assert pressed(cut(data, at)) == pressed([data])


def test_speeds_go_up_and_down_in_steps_and_stay_in_bounds() -> None:
    assert _next_speed(1.0, up=True) == 2.0
    assert _next_speed(1.0, up=False) == 0.5
    assert _next_speed(3.0, up=True) == 4.0
    assert _next_speed(3.0, up=False) == 2.0
    assert _next_speed(SPEEDS[-1], up=True) == SPEEDS[-1]
    assert _next_speed(SPEEDS[0], up=False) == SPEEDS[0]
    assert _next_speed(None, up=False) == SPEEDS[-1]
