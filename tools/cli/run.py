"""``steno run``: record a program and show it."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext

import trio

from eventlog.log import EventLog, open_log
from eventlog.sessions import AGENT_NAME
from server.config import Config, Home
from server.recorder.lock import RecorderLock
from server.recorder.process import Exit, SpawnError
from server.recorder.pty import get_size
from server.recorder.pump import Pump
from server.recorder.session import LiveSession, Spec
from tools.cli.home import open_home
from tools.cli.output import CommandError, UsageError, print_error, unwrapped
from tools.cli.terminal import in_foreground, raw
from tools.cli.viewer import Viewer

EXAMPLES = """\
examples:
  steno run -- claude                      record an agent on a terminal and show it
  steno run --name nightly --tag task=42 -- codex exec "fix the tests"
  steno run --mode pipe -- make -k test    keep stdout and stderr apart
  echo "what is new?" | steno run -- aider --yes
"""

OWN_FAILURE = 125  # as env(1), nohup(1) and docker-run(1) have it
DEFAULT_SIZE = (80, 24)
READ_BYTES = 65_536
FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", metavar="A", help="the agent's name (default: the command's base name)")
    parser.add_argument(
        "--mode", choices=("pty", "pipe"), default="pty", help="a terminal (default), or separate pipes"
    )
    parser.add_argument("--cols", metavar="N", type=_cells, help="the terminal's width (default: this one's, else 80)")
    parser.add_argument("--rows", metavar="N", type=_cells, help="and its height (default: this one's, else 24)")
    parser.add_argument("--cwd", metavar="D", help="run it in that directory")
    parser.add_argument(
        "--env", metavar="K=V", action="append", default=[], help="set an environment variable; repeatable"
    )
    parser.add_argument("--tag", metavar="K=V", action="append", default=[], help="tag the session; repeatable")
    parser.add_argument("--quiet", action="store_true", help="show nothing of the program")
    parser.add_argument("argv", metavar="CMD", nargs=argparse.REMAINDER, help="the program and its arguments, after --")


def run(args: argparse.Namespace) -> int:
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise UsageError("no command to run", "steno run -- CMD ARG…")
    spec = _spec(args, argv)
    try:
        home, config = open_home(args)
        lock = RecorderLock(home.run)
    except OSError as error:
        raise _own(CommandError(f"{error.filename}: {error.strerror}", "--home DIR, or $STENO_HOME")) from error
    except Exception as error:
        raise _own(error) from None
    try:
        return trio.run(_record, home, config, spec, lock.name, args.quiet)
    except SpawnError as error:
        raise _own(CommandError(str(error)), error.status) from error
    except Exception as error:
        raise _own(error) from None
    finally:
        lock.release()


def _own(error: BaseException, status: int = OWN_FAILURE) -> BaseException:
    """The child's exit statuses are the child's; ours are told apart by their number."""
    error = unwrapped(error)
    error.status = status  # type: ignore[attr-defined]
    return error


def _spec(args: argparse.Namespace, argv: list[str]) -> Spec:
    agent = args.name if args.name is not None else agent_name(argv[0])
    if not AGENT_NAME.fullmatch(agent):
        raise UsageError(
            f"'{agent}' cannot name an agent", "--name with letters, digits, '.', '_', '-', 64 at the most"
        )
    size = get_size(0) or get_size(1) or DEFAULT_SIZE
    return Spec(
        agent=agent,
        argv=argv,
        cwd=os.path.abspath(args.cwd or os.getcwd()),
        env={key: value for key, value in os.environ.items() if key != "STENO_TOKEN"} | _pairs("--env", args.env),
        mode=args.mode,
        cols=args.cols or size[0],
        rows=args.rows or size[1],
        tags=_pairs("--tag", args.tag),
    )


def agent_name(command: str) -> str:
    """The base name of *command*, made valid."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(command)).lstrip("._-")[:64]
    return name or "agent"


def _pairs(flag: str, given: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} takes KEY=VALUE, not '{pair}'")
        pairs[key] = value
    return pairs


def _cells(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of cells from 1 to 10000")
    return int(text)


async def _record(home: Home, config: Config, spec: Spec, recorder: str, quiet: bool) -> int:
    with trio.open_signal_receiver(*FORWARDED, signal.SIGHUP, signal.SIGWINCH) as signals:
        async with open_log(home.log, cap_bytes=config.segment_bytes) as log:
            live = await LiveSession.start(log, spec, recorder)
            viewer = None if quiet else Viewer(log.store, live.session)
            try:
                exit_ = await _follow(log, live, viewer, signals)
            except SpawnError as error:
                print_error(str(error))
                _print_id(live.session, b"\n")
                return error.status
    # Only now is everything on disk and shown.
    _print_id(live.session, _last_on_stderr(viewer))
    return exit_.status


async def _follow(log: EventLog, live: LiveSession, viewer: Viewer | None, signals: AsyncIterator[int]) -> Exit:
    pump = Pump(log.writer)
    try:
        with _keys(live.spec):
            live.spawn()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_forward_signals, signals, live, viewer)
                nursery.start_soon(_forward_input, live)
                nursery.start_soon(_complain, log)
                exit_ = await live.run(pump, viewer.show if viewer else lambda stream, data: None)
                nursery.cancel_scope.cancel()
            if viewer is not None:  # with the terminal still raw: the child's last bytes want no newline translation
                await _show_the_rest(viewer, signals)
            return exit_
    finally:
        pump.close()


async def _show_the_rest(viewer: Viewer, signals: AsyncIterator[int]) -> None:
    """The session is on disk; whoever is slow to take its last bytes may be told by a signal not to wait for them."""
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            async for number in signals:
                if number != signal.SIGWINCH:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        await trio.to_thread.run_sync(viewer.finish, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


def _keys(spec: Spec) -> AbstractContextManager[None]:
    transparent = spec.mode == "pty" and os.isatty(0) and in_foreground(0)
    return raw(0) if transparent else nullcontext()


async def _forward_signals(signals: AsyncIterator[int], live: LiveSession, viewer: Viewer | None) -> None:
    async for number in signals:
        if number == signal.SIGWINCH:
            size = get_size(0) or get_size(1)
            if size is not None:
                live.resize(*size, "terminal")
        elif number == signal.SIGHUP:
            if viewer is not None:
                viewer.stop()  # the terminal is gone: that ends the showing, never the session
        else:
            live.interrupt(signal.Signals(number))


async def _forward_input(live: LiveSession) -> None:
    is_terminal = os.isatty(0)
    if is_terminal and not in_foreground(0):
        return
    while True:
        try:
            data = await _read_input()
        except OSError:
            return  # closed, or hung up
        if not data:
            break
        if not is_terminal:
            await live.wait_for_room()  # keys are few, and Ctrl-C must act when the disk is full
        if not await live.type(data, "terminal" if is_terminal else "stdin"):
            return
    if not is_terminal or live.spec.mode == "pipe":
        await live.end_input()


async def _read_input() -> bytes:
    try:
        await trio.lowlevel.wait_readable(0)
    except PermissionError:
        await trio.lowlevel.checkpoint()  # a regular file: epoll refuses it, and reading it does not wait
    return os.read(0, READ_BYTES)


async def _complain(log: EventLog) -> None:
    """Say on stderr, once each time, that the log cannot be written: the child waits meanwhile."""
    told = False
    while True:
        await trio.sleep(1.0)
        statistics = log.statistics()
        failing = statistics and (
            statistics.failing or (statistics.slow_s > 5 and f"a commit has run {statistics.slow_s:.0f} s")
        )
        if failing and not told:
            _tell(f"the log cannot be written: {failing}; the program waits, nothing is lost")
        told = bool(failing)


def _tell(message: str) -> None:
    try:
        print_error(message)
        if os.isatty(2):
            print(end="\r", file=sys.stderr, flush=True)  # a raw terminal's newline keeps the column
    except OSError:
        pass  # nobody reads it, which is no reason to end the recording


def _last_on_stderr(viewer: Viewer | None) -> bytes:
    """The last byte that stands where our stderr goes, to know whether a new line must be begun."""
    if viewer is None:
        return b"\n"
    return viewer.last_byte.get(viewer.last_fd if os.path.sameopenfile(1, 2) else 2, b"\n")


def _print_id(session: str, last: bytes) -> None:
    try:
        print(("" if last == b"\n" else "\n") + session, file=sys.stderr, flush=True)
    except OSError:
        pass  # the terminal is gone; the session is in the log
