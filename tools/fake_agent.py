"""A scripted child process: what an agent does to its terminal and to its parent, on demand, every time alike.

steno's tests, demo and benches need children that prompt, flood, crash, ignore TERM or leave grandchildren behind.
A script in TOML or JSON says so step by step:

    python -m tools.fake_agent SCRIPT.toml              # or SCRIPT.json, or: --json '{"step": [{"line": "hello"}]}'

    [[step]]
    line = "Reading src/cart.py"
    [[step]]
    prompt = "Continue? [y/N] "
    expect = "y"                                        # any other answer: exit 3
    [[step]]
    repeat = 3                                          # or "forever"
    step = [{ line = "working", delay_s = 0.1 }, { text = "slow", stream = "stderr" }]
    [[step]]
    spawn = { setsid = true, seconds = 30, ignore_term = true, hold_terminal = true, text = "still here" }
    [[step]]
    exit = 1

A step has one verb. ``delay_s`` goes with any and is waited first; alone it is a pause. The verbs are the functions in
``VERBS``: a verb's value is the function's positional parameter; its options are the keyword ones, written beside the
verb, or as its table where it has no positional parameter (``true`` where there is nothing to say).

Exit status: what the script says, else 0; 2: script or command line are wrong, and no step ran; 3: a step failed (an
unexpected answer, a write to a closed stream). A closed pipe and Ctrl-C end it by signal, as they end a C program.

Standard library only, and what is dear to import is imported where it is used: a bench starts hundreds of these.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # typing's, without the 5 ms of importing it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CHUNK_BYTES = 65_536  # a Linux pipe's capacity
BURST_ROWS = 64  # different ones, before the words come again
STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}
WORDS = ("read", "the", "file", "write", "test", "run", "error", "warning", "agent", "token", "session", "parse", "fix")

# What a verb's parameter becomes; KINDS says what a script may write for each.
Hex = bytes
Base64 = bytes
Count = float  # whole, or infinite
Stream = int
Signal = signal.Signals
Signals = list[signal.Signals]
Steps = list["Callable[[], None]"]


class ScriptError(Exception):
    """The script cannot run as written (status 2), or a step of it failed as it ran (status 3)."""

    def __init__(self, reason: str, hint: str = "", *, status: int = 2) -> None:
        super().__init__(f"{reason}\ntry: {hint}" if hint else reason)
        self.status = status


def write(stream: Stream, data: bytes) -> None:
    """Write all of *data* by system calls alone, however little the descriptor takes at once."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(stream, rest) :]
        except BlockingIOError:
            select.select([], [stream], [])
        except BrokenPipeError:
            end_by_signal(signal.SIGPIPE)


def read(size: int) -> bytes:
    """Read up to *size* bytes of stdin; b"" at its end, which a terminal that hung up reports as EIO."""
    try:
        return os.read(0, size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


# --- the verbs ---


def text(value: str, *, stream: Stream = 1) -> None:
    write(stream, value.encode())


def line(value: str, *, stream: Stream = 1) -> None:
    write(stream, f"{value}\n".encode())


def bytes_b64(data: Base64, *, stream: Stream = 1) -> None:
    write(stream, data)


def hex_(data: Hex, *, stream: Stream = 1) -> None:
    write(stream, data)


def prompt(question: str, *, expect: str = "", echo_answer: bool = False, stream: Stream = 1) -> None:
    """Ask, and wait for a line of input, or its end. ``echo_answer`` writes what was understood."""
    write(stream, question.encode())
    typed = b""
    while not typed.endswith(b"\n") and (byte := read(1)):  # byte by byte: what follows the line is the next step's
        typed += byte
    answer = typed.decode(errors="replace").rstrip("\r\n")
    if echo_answer:
        write(stream, f"answer: {answer if typed else '(end of input)'}\n".encode())
    if expect and answer != expect:
        raise ValueError(f"the answer was {answer!r}, the script expects {expect!r}")


def secret_prompt(question: str, *, expect: str = "", echo_answer: bool = False, stream: Stream = 1) -> None:
    """As ``prompt``; on a terminal its echo is off from before the question until the answer, as getpass does it."""
    if not os.isatty(0):
        return prompt(question, expect=expect, echo_answer=echo_answer, stream=stream)
    import termios

    before = termios.tcgetattr(0)
    termios.tcsetattr(0, termios.TCSAFLUSH, [*before[:3], before[3] & ~termios.ECHO, *before[4:]])
    try:
        return prompt(question, expect=expect, echo_answer=echo_answer, stream=stream)
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)
        write(stream, b"\n")  # for the Enter that was not echoed


def burst(*, lines: Count, width: int = 80, interval_s: float = 0, seed: int = 0, stream: Stream = 1) -> None:
    """Write numbered lines of words, *width* characters each; the same seed gives the same bytes, in any Python.

    Without an interval they leave in chunks of 64 KiB, so that a bench measures its recorder and not this program.
    """
    state, pool = seed, ""
    while len(pool) < width + 8 * BURST_ROWS:
        state = (state * 1_103_515_245 + 12_345) & 0x7FFF_FFFF  # C's rand(): no import, and it never changes
        pool += WORDS[(state >> 16) % len(WORDS)] + " "
    digits = max(1, min(width, 8))
    # "%08d the words", cut to the width: one % numbers a whole chunk: 2.5 M lines/s, 2.3 times line by line
    rows = [f"%0{digits}d {pool[at * 8 :]}"[: 4 + width - digits] + "\n" for at in range(BURST_ROWS)]
    rows *= max(1, CHUNK_BYTES // (BURST_ROWS * (width + 1)))
    at_once, done = 1 if interval_s else len(rows), 0
    while done < lines:
        upto, first = int(min(done + at_once, lines)), done % len(rows)
        template = "".join(rows[first : first + upto - done])
        write(stream, (template % tuple(range(done + 1, upto + 1))).encode())
        done = upto
        time.sleep(interval_s)


def spinner(*, frames: list[str], seconds: float, interval_s: float = 0.1, stream: Stream = 1) -> None:
    """Draw frame over frame by carriage return, then erase the row; no newline."""
    for frame, _ in zip(itertools.cycle(frames), range(round(seconds / interval_s)), strict=False):
        write(stream, f"\r{frame}".encode())
        time.sleep(interval_s)
    write(stream, b"\r\x1b[K")


def spawn(
    *,
    seconds: float = 0,
    setsid: bool = False,
    ignore_term: bool = False,
    hold_terminal: bool = False,
    text: str = "",
    step: Steps = [],  # noqa: B006 - never changed
    print_pid: bool = False,
    wait: bool = False,
    stream: Stream = 1,
) -> None:
    """Fork a child that writes *text*, runs its own steps, sleeps *seconds* and exits; return once it is set up.

    ``hold_terminal``: it keeps stdin, stdout and stderr, and ignores the HUP it gets when its session's leader exits;
    otherwise all three become /dev/null after *text*. ``print_pid``: "spawned PID" is written. ``wait``: it is reaped;
    else it outlives us, or stays a zombie until we end. For an orphan, spawn from the steps of a spawn of 0 seconds.
    """
    ready, set_up = os.pipe()
    if pid := os.fork():
        os.close(set_up)
        os.read(ready, 1)  # the end of the pipe: it is set up, or gone
        os.close(ready)
        if print_pid:
            write(stream, f"spawned {pid}\n".encode())
        if wait:
            os.waitpid(pid, 0)
        return

    def live() -> None:
        os.close(ready)
        if setsid:
            os.setsid()
        ignore([signal.SIGTERM] * ignore_term + [signal.SIGHUP] * hold_terminal)
        write(stream, text.encode())
        if not hold_terminal:
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in STREAMS.values():
                os.dup2(null, descriptor)
        os.close(set_up)
        run(step)
        time.sleep(seconds)

    status = 1
    try:
        status = exit_status(live)
    finally:
        os._exit(status)  # whatever happens, never go on as a second parent


def ignore(signals: Signals) -> None:
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def close(stream: Stream) -> None:
    """Close one of the three and live on; a later step that uses it fails."""
    os.close(stream)


def read_all(*, stream: Stream = 1) -> None:
    """Read stdin to its end; write its length and digest."""
    import hashlib

    digest, length = hashlib.sha256(), 0
    while data := read(CHUNK_BYTES):
        digest.update(data)
        length += len(data)
    write(stream, f"stdin: {length} bytes, sha256 {digest.hexdigest()}\n".encode())


def winsize(*, changes: int = 0, stream: Stream = 1) -> None:
    """Write the terminal's size, COLSxROWS, now and after each of *changes* SIGWINCH (the kernel may merge some)."""
    signal.signal(signal.SIGWINCH, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])  # before the first look, so that none is missed
    for change in range(changes + 1):
        if change:
            signal.sigwaitinfo([signal.SIGWINCH])  # unlike sigwait it lets Ctrl-C through
        size = os.get_terminal_size(stream)
        write(stream, f"{size.columns}x{size.lines}\n".encode())


def exit_(code: int) -> None:
    raise SystemExit(code)


def end_by_signal(number: Signal) -> None:
    """Send ourselves the signal with its default effect, even one ignored before. After STOP we may be continued."""
    if number not in (signal.SIGKILL, signal.SIGSTOP):  # these have no other effect
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def crash() -> None:
    """Abort (SIGABRT), as a failed assertion in C does, but leave no core file behind."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def repeat(times: Count, *, step: Steps) -> None:
    for number in itertools.count():
        if number >= times:
            break
        run(step)


def delay_s(seconds: float) -> None:
    time.sleep(seconds)


VERBS: dict[str, Callable[..., None]] = {
    "text": text,
    "line": line,
    "bytes_b64": bytes_b64,
    "hex": hex_,
    "prompt": prompt,
    "secret_prompt": secret_prompt,
    "burst": burst,
    "spinner": spinner,
    "spawn": spawn,
    "ignore": ignore,
    "close": close,
    "read_all": read_all,
    "winsize": winsize,
    "exit": exit_,
    "signal": end_by_signal,
    "crash": crash,
    "repeat": repeat,
    "delay_s": delay_s,
}


# --- from what a script says to what runs ---


def exactly(*types: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) not in types or (type(value) in (int, float) and not value >= 0):
            raise TypeError(value)
        return value

    return check


def base64(value: str) -> bytes:
    import binascii

    return binascii.a2b_base64(value, strict_mode=True)


def signal_number(name: str) -> Signal:
    return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]


KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "str": ("a string", exactly(str)),
    "list[str]": ("a list of strings", lambda value: [exactly(str)(each) for each in exactly(list)(value)]),
    "bool": ("true or false", exactly(bool)),
    "int": ("a whole number, 0 or more", exactly(int)),
    "float": ("a number, 0 or more", exactly(int, float)),
    "Count": ('a whole number or "forever"', lambda value: float("inf") if value == "forever" else exactly(int)(value)),
    "Hex": ("hexadecimal digits", bytes.fromhex),
    "Base64": ("base64", base64),
    "Stream": ('"stdout", "stderr" or "stdin"', STREAMS.__getitem__),
    "Signal": ('a signal, as "TERM"', signal_number),
    "Signals": ('a list of signals, as ["TERM"]', lambda value: [signal_number(each) for each in exactly(list)(value)]),
}


def convert(key: str, kind: str, value: Any, number: str) -> Any:
    if kind == "Steps":
        return compile_steps(value, f"{number}.")
    expected, converter = KINDS[kind]
    try:
        return converter(value)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ScriptError(f'step {number}: "{key}" wants {expected}, not {value!r}') from error


def unknown(keys: list[str], known: list[str], what: str) -> ScriptError:
    from difflib import SequenceMatcher

    _, key, nearest = max((SequenceMatcher(None, key, near).ratio(), key, near) for key in keys for near in known)
    return ScriptError(what.format(key), nearest)


def compile_step(table: dict[str, Any], number: str) -> Callable[[], None]:
    """Check one step against the signature of its verb; return what performs it."""
    verbs = [key for key in table if key in VERBS and key != "delay_s"] or [key for key in table if key == "delay_s"]
    if not verbs and table:
        raise unknown(list(table), list(VERBS), f'step {number}: unknown verb "{{}}"')
    if len(verbs) != 1:
        raise ScriptError(f"step {number}: one verb is wanted, not {len(verbs)}", ", ".join(verbs or VERBS))
    verb, function = verbs[0], VERBS[verbs[0]]
    names = function.__code__.co_varnames  # what inspect.signature would say, without importing inspect
    wanted = function.__code__.co_argcount
    known = list(names[wanted : wanted + function.__code__.co_kwonlyargcount])
    options = {key: value for key, value in table.items() if key not in (verb, "delay_s")}
    if not wanted and isinstance(table[verb], dict):
        options |= table[verb]
    elif not wanted and table[verb] is not True:
        raise ScriptError(f'step {number}: "{verb}" wants a table or true, not {table[verb]!r}')
    if strange := [key for key in options if key not in known]:
        raise unknown(strange, [*known, "delay_s"], f'step {number}: unknown option "{{}}" of "{verb}"')
    for key in known:
        if key not in options and key not in (function.__kwdefaults__ or {}):
            raise ScriptError(f'step {number}: "{verb}" needs "{key}"')
    kinds = function.__annotations__
    values = [convert(verb, kinds[name], table[verb], number) for name in names[:wanted]]
    options = {key: convert(key, kinds[key], value, number) for key, value in options.items()}
    first_s = 0 if verb == "delay_s" else convert("delay_s", "float", table.get("delay_s", 0), number)

    def perform() -> None:
        try:
            time.sleep(first_s)
            function(*values, **options)
        except (OSError, ValueError, ArithmeticError) as error:
            raise ScriptError(f"step {number}: {error}", status=3) from error

    return perform


def compile_steps(value: Any, prefix: str = "") -> Steps:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ScriptError(f'"{prefix}step" wants a list of steps, not {value!r}')
    return [compile_step(table, f"{prefix}{number}") for number, table in enumerate(value, 1)]


def load(arguments: list[str]) -> Steps:
    """Read and check the script that the command line names."""
    try:
        match arguments:
            case ["--json", source]:
                import json

                script = json.loads(source)
            case [path] if not path.startswith("-"):
                with open(path, encoding="utf-8") as file:
                    source = file.read()
                if path.endswith(".json"):
                    return load(["--json", source])
                import tomllib

                script = tomllib.loads(source)
            case _:
                raise ScriptError("one script is wanted", "fake_agent SCRIPT.toml|SCRIPT.json, --json TEXT, or --help")
    except (OSError, ValueError) as error:
        raise ScriptError(f"cannot read the script: {error}") from error
    if not isinstance(script, dict) or list(script) != ["step"]:
        raise ScriptError('a script holds "step", a list of steps, and nothing else')
    return compile_steps(script["step"])


def run(steps: Steps) -> None:
    for perform in steps:
        perform()


def exit_status(work: Callable[[], None]) -> int:
    """Do *work*; return the exit status that it means."""
    try:
        work()
    except SystemExit as asked:
        return int(asked.code or 0)
    except KeyboardInterrupt:
        end_by_signal(signal.SIGINT)
    except ScriptError as error:
        try:
            write(2, f"error: {error}\n".encode(errors="replace"))
        except OSError:
            pass  # stderr may be the stream that failed
        return error.status
    return 0


if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        write(1, (__doc__ or "").encode())
    else:
        sys.exit(exit_status(lambda: run(load(sys.argv[1:]))))
