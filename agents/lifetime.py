"""From start to stop of an agent: one process a folder, and signals that ask it to end.

Tests: tests/unit/agents/test_lifetime.py
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from agents.durable import make_folder
from agents.errors import SettingsError


@contextlib.contextmanager
def held(folder: Path, stopping: threading.Event | None = None) -> Iterator[threading.Event]:
    """Make and hold an agent's folder; gives the event (its own, or `stopping`) that SIGTERM and SIGINT set.

    Raises SettingsError when another agent has the folder or it cannot be made.
    """
    try:
        make_folder(folder)
    except OSError as error:
        raise SettingsError(f"cannot use the folder {folder}: {error.strerror}") from error
    stop_asked = stopping or threading.Event()
    with only_one(folder):
        stop_on_signals(stop_asked)
        yield stop_asked


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
