"""A home for each test, and the corpus of real recordings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.helpers import ROOT, Steno

CORPUS = ROOT.parent / "shared" / "corpus"


@pytest.fixture
def steno(tmp_path: Path) -> Iterator[Steno]:
    """Whatever it has started and left running ends with the test."""
    with Steno(tmp_path / "home") as steno:
        yield steno


@pytest.fixture
def corpus() -> Path:
    if not CORPUS.is_dir():
        pytest.skip(f"the recordings are not here: {CORPUS}")
    return CORPUS
