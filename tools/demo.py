"""``make demo``: what steno does, shown with real programs in less than a minute. No keys, no network, no server.

Everything is done as a user would: through the command ``steno``, in a home of its own that is deleted at the end.
The demo fails, with exit status 1, where anything it claims turns out not to be so.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
STENO = [sys.executable, "-m", "tools.cli.main"]
AGENT = [sys.executable, str(HERE / "fake_agent.py")]
PATIENCE_S = 30.0
T = TypeVar("T")
BOLD, DIM, GREEN, PLAIN = ("\033[1m", "\033[2m", "\033[32m", "\033[0m") if sys.stdout.isatty() else ("", "", "", "")


class DemoFailed(Exception):
    """Something the demo says is not so."""


def main() -> int:
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="steno-demo-"))
    os.environ["STENO_HOME"] = str(home)
    os.environ["PYTHONPATH"] = str(HERE.parent)
    try:
        agent = record_an_agent(home)
        record_a_real_program(home)
        list_what_there_is()
        replay_at_speed(agent)
        prove_the_bytes(home, agent)
        kill_a_recorder(home)
        verify()
        say_what_next(time.monotonic() - began)
        return 0
    except DemoFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(home, ignore_errors=True)


def record_an_agent(home: Path) -> str:
    """A scripted coding agent on a terminal; its question is seen in the log, by another process, before the answer."""
    title("1. Record an agent. It asks; the question is in the log before anyone answers.")
    argv = ["run", "--name", "demo-agent", "--", *AGENT, str(HERE / "demo_scripts" / "agent.toml")]
    print(f"{DIM}$ steno run --name demo-agent -- AGENT{PLAIN}")
    with (home / "shown").open("wb") as shown:
        recorder, keyboard = on_a_terminal(argv, stdout=shown)
        prompt = wait_for(lambda: find_event("demo-agent", "Continue?"), "the prompt in the log")
        print((home / "shown").read_text(), end="")
        print(f"\n{GREEN}   steno log, meanwhile: position {prompt['position']} is {prompt['text']!r}{PLAIN}")
        os.write(keyboard, b"y\r")
        status = recorder.wait(PATIENCE_S)
        os.close(keyboard)
    text = (home / "shown").read_bytes().decode()
    print(text[text.index("Continue?") :], end="")
    expect(status == 1, f"the agent ended with 1, steno run with {status}")
    return session_of("demo-agent")


def record_a_real_program(home: Path) -> None:
    title("2. Record a real program: an interactive Python, typed into on its terminal.")
    with (home / "python").open("wb") as shown:
        recorder, keyboard = on_a_terminal(["run", "--name", "python", "--", sys.executable, "-q"], stdout=shown)
        wait_for(lambda: find_event("python", ">>>"), "Python's prompt")
        for line, answer in ((b"6 * 7\r", "42"), (b"1 / 0\r", "ZeroDivisionError")):
            os.write(keyboard, line)
            wait_for(lambda answer=answer: find_event("python", answer), f"its answer {answer}")  # type: ignore[misc]
        os.write(keyboard, b"exit()\r")
        expect(recorder.wait(PATIENCE_S) == 0, "the interactive Python did not end by itself")
        os.close(keyboard)
    steno("replay", "python", "--speed", "max")


def list_what_there_is() -> None:
    title("3. What has been recorded, and what happened to it.")
    steno("sessions")


def replay_at_speed(session: str) -> None:
    title("4. Watch it again, at eight times the speed (silences cut to half a second).")
    print(f"{DIM}$ steno replay {session} --speed 8 --idle-limit 0.5{PLAIN}")
    steno("replay", session, "--speed", "8", "--idle-limit", "0.5", quiet=True)


def prove_the_bytes(home: Path, agent: str) -> None:
    title("5. The proof: replay at --speed max gives the bytes that were read, every one.")
    replayed = output_of("replay", agent, "--speed", "max")
    expect(replayed == (home / "shown").read_bytes(), "the replayed terminal differs from what it showed")
    print(f"{GREEN}   the agent's terminal: {len(replayed):,} bytes shown = {len(replayed):,} bytes replayed{PLAIN}")
    noise = home / "noise"
    noise.write_bytes(os.urandom(1 << 20))
    output_of("run", "--mode", "pipe", "--quiet", "--name", "noise", "--", "cat", str(noise))
    digests = [
        hashlib.sha256(data).hexdigest()
        for data in (noise.read_bytes(), output_of("replay", "noise", "--speed", "max"))
    ]
    expect(digests[0] == digests[1], "replayed random bytes differ from the file")
    print(f"{GREEN}   a megabyte of random bytes: sha256 {digests[0][:16]}… = {digests[1][:16]}…{PLAIN}")


def kill_a_recorder(home: Path) -> None:
    title("6. Kill a recorder with SIGKILL. What anyone has seen is still there.")
    script = HERE / "demo_scripts" / "endless.toml"
    argv = [*STENO, "run", "--name", "victim", "--quiet", "--", *AGENT, str(script)]
    recorder = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = wait_for(lambda: count if (count := len(events_of("victim", "output"))) >= 40 else None, "forty lines")
    child = json.loads(output_of("show", "victim", "--json"))["pid"]
    recorder.send_signal(signal.SIGKILL)
    recorder.wait()
    print(f"   {seen} lines had been seen in the log when its recorder was killed")
    left = len(events_of("victim", "output"))
    expect(left >= seen, f"{seen} lines had been seen, {left} are left")
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # most programs end with their terminal; this is for those that do not
    steno("sessions", "--agent", "victim")
    print(f"{GREEN}   {left} lines are there, and the session says truthfully that it is lost{PLAIN}")


def verify() -> None:
    title("7. Check every record: positions, checksums, order, totals.")
    steno("verify")


def say_what_next(seconds: float) -> None:
    title(f"That took {seconds:.0f} s. Now yours:")
    print(
        "    .venv/bin/steno run -- bash           then: exit\n"
        "    .venv/bin/steno sessions\n"
        "    .venv/bin/steno replay bash --speed 4\n"
        "    .venv/bin/steno log --follow          in another terminal\n"
    )


# -- how it is done ------------------------------------------------------------------------------------------------


def title(text: str) -> None:
    print(f"\n{BOLD}{text}{PLAIN}", flush=True)


def expect(held: bool, message: str) -> None:
    if not held:
        raise DemoFailed(message)


def steno(*argv: str, quiet: bool = False) -> None:
    """Run a command for the reader to see."""
    if not quiet:
        print(f"{DIM}$ steno {shlex.join(argv)}{PLAIN}", flush=True)
    status = subprocess.run([*STENO, *argv], stdin=subprocess.DEVNULL, timeout=PATIENCE_S).returncode
    expect(status == 0, f"steno {argv[0]} ended with {status}")


def output_of(*argv: str) -> bytes:
    done = subprocess.run([*STENO, *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
    expect(done.returncode == 0, f"steno {argv[0]} ended with {done.returncode}: {done.stderr.decode()}")
    return done.stdout


def on_a_terminal(argv: list[str], stdout: object) -> tuple[subprocess.Popen[bytes], int]:
    """Start steno with a real terminal for its keyboard; the descriptor to type on."""
    keyboard, terminal = pty.openpty()
    recorder = subprocess.Popen(
        [*STENO, *argv],
        stdin=terminal,
        stdout=stdout,  # type: ignore[call-overload]
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(terminal)
    return recorder, keyboard


def events_of(agent: str, kind: str) -> list[dict[str, str]]:
    done = subprocess.run([*STENO, "log", agent, "--kind", kind, "--json"], capture_output=True, timeout=PATIENCE_S)
    return [json.loads(line) for line in done.stdout.splitlines()]


def find_event(agent: str, text: str) -> dict[str, str] | None:
    """The event that completes *text*, which a program may write piece by piece: each piece is an event."""
    so_far = ""
    for event in events_of(agent, "output"):
        so_far += event.get("text", "")
        if text in so_far:
            return event
    return None


def session_of(agent: str) -> str:
    return str(json.loads(output_of("show", agent, "--json"))["session"])


def wait_for(look: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        select.select([], [], [], 0.05)
    raise DemoFailed(f"{what} did not come within {PATIENCE_S:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
