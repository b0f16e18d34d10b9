"""``steno verify``, ``backup`` and ``prune``: what they print and answer; the log's own tests have what they do."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.tools.cli.conftest import Done, Steno
from tests.tools.cli.test_log import damage
from tools.cli.output import UsageError
from tools.cli.prune import size_bytes


@pytest.fixture
def recorded(steno: Steno) -> Steno:
    steno.run("--name", "seq", "--", "seq", "-f", "line %g of many words", "2000")
    return steno


def head_of(steno: Steno) -> int:
    with steno.store() as store:
        return store.head()


# -- verify --------------------------------------------------------------------------------------------------------


def test_a_log_that_keeps_its_promises_is_ok(recorded: Steno) -> None:
    head = head_of(recorded)
    assert recorded("verify") == (0, b"", f"ok: {head:,} events, positions 1 to {head}\n")
    assert recorded("verify", "--json")[:2] == (0, b"")
    assert recorded("verify", "--csv")[:2] == (0, b"position,promise,detail\n")


def test_one_that_does_not_is_a_finding_a_row(recorded: Steno) -> None:
    damage(recorded.home, b"line 1000 of")

    done = recorded("verify", "--json")
    assert done.status == 1
    assert all(list(row) == ["position", "promise", "detail"] for row in done.rows)
    assert "checksum" in done.rows[0]["detail"]
    assert recorded("verify").out.split()[:3] == [b"POSITION", b"PROMISE", b"DETAIL"]
    assert next(csv.DictReader(io.StringIO(recorded("verify", "--csv").text)))["promise"] == done.rows[0]["promise"]


def test_a_home_without_a_log_has_nothing_to_verify(steno: Steno) -> None:
    done = steno("verify")

    assert (done.status, done.out) == (1, b"")
    assert done.err.startswith("error: no log in ")
    assert "try: steno run -- CMD" in done.err


# -- backup --------------------------------------------------------------------------------------------------------


def at(home: Path, steno: Steno, *argv: str) -> Done:
    other = Steno(home, steno._captured)
    return other(*argv)


def test_a_backup_is_a_home_with_everything_but_what_lives(recorded: Steno, tmp_path: Path) -> None:
    (recorded.home / "config.toml").write_text("segment_bytes = 1_000_000\n")
    (recorded.home / "token").write_text("secret")
    copy = tmp_path / "backups" / "monday"

    done = recorded("backup", str(copy))
    assert (done.status, done.out) == (0, b"")
    assert done.err.startswith(f"{copy}: ")
    assert f"in 1 segment, up to position {head_of(recorded)}" in done.err
    assert sorted(path.name for path in copy.iterdir()) == ["config.toml", "log"]

    assert at(copy, recorded, "verify").status == 0
    assert at(copy, recorded, "sessions", "--json").rows[0]["session"].startswith("seq-")
    assert at(copy, recorded, "replay", "seq", "--speed", "max").out == recorded("replay", "seq", "--speed", "max").out


def test_a_backup_says_what_it_did_as_json(recorded: Steno, tmp_path: Path) -> None:
    [told] = recorded("backup", str(tmp_path / "copy"), "--json").rows

    assert (told["segments"], told["head"]) == (1, head_of(recorded))
    assert told["bytes"] > 0


def test_a_backup_never_overwrites(recorded: Steno, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()

    done = recorded("backup", str(tmp_path / "full"))
    assert done.status == 1
    assert done.err.endswith("try: a directory that is new or empty\n")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


# -- prune ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def long(steno: Steno, monkeypatch: pytest.MonkeyPatch) -> Steno:
    """Several segments."""
    monkeypatch.setenv("STENO_SEGMENT_BYTES", "65536")
    for _ in range(6):
        steno.run("--name", "seq", "--", "seq", "-f", "line %g of many words", "2000")
    return steno


def test_prune_says_what_goes_and_a_dry_run_leaves_it(long: Steno) -> None:
    before = sorted(path.name for path in (long.home / "log").iterdir())

    done = long("prune", "--keep-bytes", "100K", "--dry-run")
    assert done.status == 0
    *segments, summary = done.text.splitlines()
    assert segments[0].startswith("positions 1 to ")
    assert summary.startswith(f"would delete {len(segments)} segments")
    assert sorted(path.name for path in (long.home / "log").iterdir()) == before


def test_prune_deletes_the_oldest_and_the_rest_keeps_its_promises(long: Steno) -> None:
    [planned] = long("prune", "--keep-bytes", "100K", "--dry-run", "--json").rows
    [done] = long("prune", "--keep-bytes", "100K", "--json").rows

    assert (planned["dry_run"], planned["freed_bytes"]) == (True, 0)
    assert done["segments"] == planned["segments"] != []
    assert done["freed_bytes"] > 0
    assert long("log", "--limit", "1", "--after", "0", "--json").rows[0]["position"] == done["first"]
    rows = long("sessions", "--json").rows
    assert len(rows) == 6, "whose beginning is gone stays listed"
    assert sorted(row["session"] for row in rows if row["truncated"]) == sorted(done["gone"] + done["truncated"])
    assert long("verify").status == 0


def test_prune_of_nothing_deletes_nothing(long: Steno) -> None:
    assert "would delete 0 segments" in long("prune", "--older-than", "30d", "--dry-run").text


@pytest.mark.parametrize(
    "words",
    [[], ["--older-than", "30d", "--keep-bytes", "1G"], ["--older-than", "old"], ["--keep-bytes", "-1"], ["--dry-run"]],
)
def test_prune_wants_one_limit_and_a_good_one(steno: Steno, words: list[str]) -> None:
    done = steno("prune", *words)

    assert (done.status, done.out) == (2, b"")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1000), ("20G", 20 * 10**9), ("1.5Gi", 3 << 29), ("500MB", 5 * 10**8), ("2Ti", 2 << 40)],
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "1 G", "1g", "many"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        size_bytes(text)


def test_plans_are_json_documents(long: Steno) -> None:
    assert set(json.loads(long("prune", "--older-than", "1d", "--json").out)) == {
        *("segments", "bytes", "gone", "truncated", "first", "stopped", "dry_run", "freed_bytes"),
    }
