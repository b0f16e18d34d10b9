"""``steno run``: record a program and show it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext

import trio

from eventlog.log import open_log
from eventlog.sessions import AGENT_NAME
from server.config import Config, Home, home_path
from server.recorder.lock import RecorderLock
from server.recorder.process import Exit, SpawnError
from server.recorder.pty import get_size
from server.recorder.pump import Pump
from server.recorder.session import LiveSession, Spec
from tools.cli.foreground import SIGNALS, Foreground
from tools.cli.home import open_home
from tools.cli.output import CommandError, UsageError, print_error, unwrapped
from tools.cli.terminal import Mode, raw
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
        where = error.filename or home_path(args.home, os.environ)  # a write that fails names no file
        raise _own(CommandError(f"{where}: {error.strerror}", "--home DIR, or $STENO_HOME")) from error
    except Exception as error:
        raise _own(error) from None
    try:
        return trio.run(_record, home, config, spec, lock.name, args.quiet)
    except Exception as error:
        raise _own(error) from None
    finally:
        lock.release()


def _own(error: BaseException) -> BaseException:
    """The child's exit statuses are the child's; ours are told apart by their number."""
    error = unwrapped(error)
    error.status = OWN_FAILURE  # type: ignore[attr-defined]
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
        cwd=_directory(args.cwd),
        env={key: value for key, value in os.environ.items() if key != "STENO_TOKEN"} | _pairs("--env", args.env),
        mode=args.mode,
        cols=args.cols or size[0],
        rows=args.rows or size[1],
        tags=_pairs("--tag", args.tag),
    )


def _directory(given: str | None) -> str:
    try:
        return os.path.abspath(given or os.getcwd())
    except FileNotFoundError:
        raise _own(CommandError("the working directory is no more", "--cwd DIR")) from None


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
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of cells from 1 to 10000")
    return int(text)


async def _record(home: Home, config: Config, spec: Spec, recorder: str, quiet: bool) -> int:
    at = Foreground()
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(at.obey, signals)
            nursery.start_soon(at.complain)
            async with open_log(home.log, cap_bytes=config.segment_bytes) as log:
                at.log = log
                at.live = await LiveSession.start(log, spec, recorder)
                at.viewer = None if quiet else Viewer(log.store, at.live.session)
                try:
                    status = (await _to_its_end(at)).status
                except SpawnError as error:
                    print_error(str(error))
                    status = error.status
            nursery.cancel_scope.cancel()
    # Only now is everything on disk and shown.
    _print_id(at.live.session, _last_on_stderr(at.viewer))
    return status


async def _to_its_end(at: Foreground) -> Exit:
    assert at.live is not None
    assert at.log is not None
    pump = Pump(at.log.writer)
    try:
        with _keys(at.live.spec) as at.mode:
            at.live.spawn()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(at.forward_input)
                exit_ = await at.live.run(pump, at.viewer.show if at.viewer else lambda stream, data: None)
                nursery.cancel_scope.cancel()
            if at.viewer is not None:  # with the terminal still raw: the last bytes want no newline translation
                await trio.to_thread.run_sync(at.viewer.finish)
            return exit_
    finally:
        pump.close()


def _keys(spec: Spec) -> AbstractContextManager[Mode | None]:
    return raw(0) if spec.mode == "pty" and os.isatty(0) else nullcontext()


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
