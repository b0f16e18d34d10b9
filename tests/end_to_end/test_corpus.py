"""Every byte of every real recording comes back, and so does noise."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from eventlog.codec import OutputRun
from eventlog.log import open_log
from eventlog.verify import verify
from server.recorder.lock import RecorderLock
from server.recorder.pump import Pump
from server.recorder.session import LiveSession, Spec
from tests.end_to_end.conftest import Steno


async def recorded(directory: Path, files: list[Path]) -> list[tuple[Path, bytes]]:
    """What the log holds of ``cat FILE``, on pipes, for each of *files*."""
    held: list[tuple[Path, bytes]] = []
    lock = RecorderLock(directory)
    async with open_log(directory / "log", cap_bytes=8 << 20) as log:
        pump = Pump(log.writer)
        for file in files:
            spec = Spec(agent="cat", argv=["cat", str(file)], cwd="/", env=dict(os.environ), mode="pipe")
            live = await LiveSession.start(log, spec, lock.name)
            live.spawn()
            await live.end_input()
            exit_ = await live.run(pump, lambda stream, data: None)
            assert exit_.code == 0, file
            start = log.store.session_start(live.session)
            runs = [
                record.event
                for record in log.store.records(start, session=live.session, kinds=(OutputRun,))
                if isinstance(record.event, OutputRun)
            ]
            held.append((file, b"".join(line for run in runs for _, lines in run.reads for line in lines)))
        pump.close()
    lock.release()
    return held


def test_every_file_of_the_corpus_comes_back_byte_for_byte(tmp_path: Path, corpus: Path) -> None:
    files = sorted(path for path in corpus.rglob("*") if path.is_file())
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(1 << 20))

    held = trio.run(recorded, tmp_path, [*files, noise])

    assert len(held) == len(files) + 1 > 500
    assert [file for file, data in held if data != file.read_bytes()] == []
    assert verify(tmp_path / "log") == []


def test_files_of_every_kind_come_back_through_the_command_line(steno: Steno, corpus: Path) -> None:
    for folder in ("asciicast", "agent-screens", "logs", "utf8", "vt"):
        file = max((path for path in (corpus / folder).rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)

        shown = steno("run", "--mode", "pipe", "--name", folder, "--", "cat", file).stdout

        assert shown == file.read_bytes() == steno.output(folder), file


def test_a_terminal_s_bytes_come_back_as_its_viewer_saw_them(steno: Steno, corpus: Path) -> None:
    """On a terminal the line discipline has had its say, so the viewer's copy is what there is to compare with."""
    for file in sorted((corpus / "vt").rglob("*"))[:120:20]:
        if file.is_file():
            shown = steno("run", "--name", "vt", "--", "cat", file).stdout

            assert shown == steno.output("vt"), file
