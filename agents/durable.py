"""Files that are on disk when a function says so: written whole, synced, and so are their names.

Invariants: a file appears whole or not at all (`.tmp`, sync, rename); what fails leaves no `.tmp` behind.
Tests: tests/unit/agents/test_durable.py.
"""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Final

NAME_LENGTH: Final = 32


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, their names durable; raises OSError."""
    missing = []
    present = folder
    while not present.is_dir():
        missing.append(present)
        if present == present.parent:
            break
        present = present.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file whole: temporary, sync, rename; its name is durable after `sync_folder`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def name_of(content: bytes) -> str:
    """Give a file name that comes from the content, so that the same is kept once."""
    return hashlib.sha256(content).hexdigest()[:NAME_LENGTH] + ".json"


def shown(key: str, content: bytes) -> dict[str, str]:
    """Give bytes for a JSON object: as text under `key`, or under `key`-base64 when they are no UTF-8."""
    try:
        return {key: content.decode()}
    except UnicodeDecodeError:
        return {f"{key}-base64": base64.b64encode(content).decode("ascii")}
