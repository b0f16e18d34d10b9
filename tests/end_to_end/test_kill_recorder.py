"""A recorder is killed at any moment: whatever anyone has seen is there, and the session is truthfully lost."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress

from tests.end_to_end.conftest import Steno

PRINTER = "import time\nfor i in range(10**6):\n  print('line', i, flush=True)\n  if i % 50 == 0: time.sleep(0.001)"


def test_whatever_a_follower_saw_survives_the_recorder(steno: Steno) -> None:
    chance = random.Random(20261122)
    for _ in range(5):
        head = steno.rows("log", "--limit", "1")[0]["position"] if steno.rows("sessions") else 0
        kinds = ("--kind", "output", "--kind", "state_changed")
        recorder = steno.start("run", "--name", "victim", "--quiet", "--", sys.executable, "-c", PRINTER)
        follower = steno.start("log", "--follow", "--json", "--after", head, *kinds)
        assert follower.stdout is not None
        seen: list[str] = []
        until = float("inf")
        child = 0
        for line in follower.stdout:
            row = json.loads(line)
            if row["type"] == "state_changed" and row["to"] == "running":
                child, until = row["pid"], time.monotonic() + chance.uniform(0.05, 0.4)
            elif row["type"] == "output":
                seen.append(row["text"])
            if child and seen and time.monotonic() > until:
                break
        recorder.kill()
        recorder.communicate()
        follower.kill()
        follower.communicate()
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)

        session = steno.rows("sessions", "--limit", "1")[0]
        kept = [row["text"] for row in steno.rows("log", session["session"], "--kind", "output")]

        assert session["state"] == "lost"
        assert seen
        assert kept[: len(seen)] == seen
        steno.verified()
    positions = [row["position"] for row in steno.rows("log")]
    assert positions == list(range(1, len(positions) + 1))


def test_a_lost_session_is_said_to_be_so_once_however_many_ask(steno: Steno) -> None:
    recorder = steno.start("run", "--name", "victim", "--quiet", "--", "sleep", "60")
    while not steno.rows("log", "--kind", "state_changed"):
        time.sleep(0.05)
    recorder.kill()
    recorder.communicate()

    asked = [steno.start("sessions", "--json") for _ in range(4)]
    states = [json.loads(process.communicate(timeout=60)[0])["state"] for process in asked]

    assert states == ["lost"] * 4
    assert [row["to"] for row in steno.rows("log", "--kind", "state_changed")] == ["running", "lost"]
    assert not list((steno.home / "run").glob("recorder-*.lock"))
