"""Opening the home directory for a command: settings, the log, and what is met on the way in (lost sessions)."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eventlog.errors import UnknownSessionError
from eventlog.jsonform import session_object
from eventlog.sessions import Session
from eventlog.store import Store
from server.config import Config, Home, home_path, load
from server.recorder.lock import claim_kernel, is_lost, settle_lost
from tools.cli.output import CommandError, Row, print_error

if TYPE_CHECKING:
    import argparse


def open_home(args: argparse.Namespace) -> tuple[Home, Config]:
    """The home directory, made where it is not there, and its settings."""
    home = Home(home_path(args.home, os.environ))
    config = load(home.config, os.environ)
    home.create()
    claim_kernel(home.run)
    return home, config


@contextmanager
def open_store(args: argparse.Namespace) -> Iterator[tuple[Home, Store]]:
    """The log for a reader, after sessions whose recorder is gone have been reported ``lost``."""
    home, config = open_home(args)
    with Store(home.log, cap_bytes=config.segment_bytes) as store:
        if store.damage is None:
            settle_lost(store, home.run)
        else:
            print_error(f"{store.damage}; what is left of it follows", store.damage.hint)
        yield home, store


def find_session(store: Store, name: str) -> Session:
    """By session id, else an agent's latest running session, else its latest, else a unique prefix of an id.

    Raises:
        UnknownSessionError: none. CommandError: the prefix fits several.
    """
    rows = store.sessions()
    for row in rows:
        if row.session == name:
            return row
    of_agent = [row for row in rows if row.agent == name]
    if of_agent:
        return ([row for row in of_agent if row.is_open] or of_agent)[-1]
    matching = [row for row in rows if name and row.session.startswith(name)]  # "" is a variable that was not set
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(row.session for row in matching[-3:])
        raise CommandError(f"'{name}' is the beginning of {len(matching)} sessions: {names}", "more of its id")
    raise UnknownSessionError(name)


def session_row(home: Home, store: Store, row: Session) -> Row:
    """*row* as people and programs read it; ``lost`` also while the log cannot be written to say so."""
    shown = session_object(row, first=store.first, now_ns=time.time_ns())
    return shown | ({"state": "lost", "idle_s": None} if is_lost(home.run, row) else {})


def agent_matches(pattern: str | None, agent: str) -> bool:
    return pattern is None or fnmatch.fnmatchcase(agent, pattern)
