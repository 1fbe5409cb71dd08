"""The replay agent: answers requests for records by sending them again.

Requests come from `/grace.<db>.requests`, records from the record stores, and the sender hears on
a control channel how it goes.  What it keeps is in DATA/replay: `requests.sqlite` (every request
and how far it is) and `quarantine/` (requests that could not be understood).

Invariants: see agents/replays/task.py; one agent per folder (a lock file).
Tests: tests/unit/agents/test_replay_*.py, tests/interop/test_replay_site.py; described in docs/replay.md
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agents.config import ReplaySettings
from agents.errors import SettingsError
from agents.recordstore.sqlite import SqliteRecordStore
from agents.replays.ledger import ReplayLedger
from agents.replays.quarantine import Quarantine
from agents.replays.workroom import Workroom
from agents.transport import Transport

log = logging.getLogger(__name__)

FOLDER: Final = "replay"


def run(
    settings: ReplaySettings, data_folder: Path, stopping: threading.Event | None = None
) -> None:
    """Answer requests until SIGTERM, SIGINT or `stopping`; SettingsError for a folder in use."""
    folder = data_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    stop_asked = stopping or threading.Event()
    with contextlib.ExitStack() as open_things:
        open_things.enter_context(only_one(folder))
        stop_on_signals(stop_asked)
        raw = SqliteRecordStore(data_folder / settings.path)
        open_things.callback(raw.close)
        summary = SqliteRecordStore(data_folder / settings.summary_path)
        open_things.callback(summary.close)
        ledger = ReplayLedger(folder / "requests.sqlite")
        open_things.callback(ledger.close)
        room = Workroom(
            settings,
            raw,
            summary,
            ledger,
            Quarantine(folder / "quarantine"),
            lambda name: Transport(settings.broker, name),
        )
        room.start()
        log.info("replay agent takes requests from %s", settings.requests_queue)
        stop_asked.wait()
        room.stop(settings.stop_timeout_seconds * 0.8)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; SettingsError when another agent has it."""
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"{folder} is in use by another agent; stop it first") from error
        yield


def stop_on_signals(stopping: threading.Event) -> None:
    """Let SIGTERM and SIGINT set an event, where signals can be taken (the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        return

    def on_signal(_number: int, _frame: object) -> None:
        # In a thread of its own: the main thread may hold the event's lock just now.
        threading.Thread(target=stopping.set, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
