"""The replay agent: answers requests for records by sending them again.

Requests come from `/grace.<db>.requests`, records from the record stores, and the sender hears on
a control channel how it goes.  What it keeps is in DATA/replay: `requests.sqlite` (every request
and how far it is) and `quarantine/` (requests that could not be understood).

Invariants: see agents/replays/task.py; one agent per folder (a lock file).
Tests: tests/unit/agents/test_replay_*.py, tests/interop/test_replay_site.py; described in docs/replay.md
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import Final

from agents.config import ReplaySettings
from agents.lifetime import held
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
    with contextlib.ExitStack() as open_things:
        stop_asked = open_things.enter_context(held(folder, stopping))
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
