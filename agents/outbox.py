"""Messages on disk while the broker is away: a folder of batches, drained in order.

One file holds the messages that were put together; `00000000000000000007.spool` is: 8 bytes magic, 4 bytes CRC-32 of
the rest, then msgpack `[destination, headers, [body, …]]`.

Invariants: when `put` returns, the batch is on disk (file and folder synced) and will be offered until `remove`;
files appear whole (`.tmp`, sync, rename), so a crash leaves at most a `.tmp` that nobody was promised; a file that
cannot be read is moved to `damaged/`, never deleted; one process per folder.
Tests: tests/unit/agents/test_outbox.py.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, final

import msgpack

from agents.durable import make_folder, sync_folder, write_file
from agents.errors import AgentError, SpoolFull

log = logging.getLogger(__name__)

_MAGIC: Final = b"gmspool1"
_SUFFIX: Final = ".spool"


@final
class SpooledBatch:
    """A batch read back: where to, headers, bodies; `number` is its place in the order."""

    __slots__ = ("bodies", "destination", "headers", "number")

    def __init__(
        self, number: int, destination: str, headers: dict[str, str], bodies: list[bytes]
    ) -> None:
        self.number = number
        self.destination = destination
        self.headers = headers
        self.bodies = bodies


class Outbox:
    """The spool in one folder; thread-safe, bounded in bytes and files."""

    def __init__(self, folder: Path, bytes_max: int, files_max: int) -> None:
        """Open or make the folder; raise AgentError when another process uses it or it cannot be written."""
        self._folder = folder
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._lock = threading.Lock()
        self._sizes: OrderedDict[int, int] = OrderedDict()
        self._bytes = 0
        self._next_number = 1
        try:
            make_folder(folder)
            self._guard = (folder / "lock").open("wb")
        except OSError as error:
            raise AgentError(f"cannot use the spool folder {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._guard.close()
            raise AgentError(f"the spool folder {folder} is used by another process") from error
        self._scan()

    @property
    def file_count(self) -> int:
        """Batches waiting."""
        return len(self._sizes)

    @property
    def byte_count(self) -> int:
        """Bytes on disk."""
        return self._bytes

    def put(self, destination: str, headers: Mapping[str, str], bodies: Sequence[bytes]) -> None:
        """Keep a batch; raise SpoolFull (nothing kept) at the bound or when the disk takes no more."""
        content = msgpack.packb([destination, dict(headers), list(bodies)])
        size = len(content) + len(_MAGIC) + 4
        with self._lock:
            if len(self._sizes) >= self._files_max:
                raise SpoolFull(f"the spool holds {len(self._sizes)} files, its bound")
            if self._bytes + size > self._bytes_max:
                raise SpoolFull(f"the spool holds {self._bytes} bytes, {size} more pass its bound")
            number = self._next_number
            self._next_number += 1
            try:
                write_file(self._path(number), b"".join((_MAGIC, _checked(content), content)))
                sync_folder(self._folder)
            except OSError as error:
                self._path(number).unlink(missing_ok=True)
                raise SpoolFull(f"the spool cannot be written: {error.strerror}") from error
            self._sizes[number] = size
            self._bytes += size

    def oldest(self) -> SpooledBatch | None:
        """Return the first batch that can be read, or None; it stays until `remove`."""
        while True:
            with self._lock:
                number = next(iter(self._sizes), None)
            if number is None:
                return None
            batch = self._read(number)
            if batch is not None:
                return batch

    def remove(self, batch: SpooledBatch) -> None:
        """Forget a batch that the broker has confirmed."""
        with self._lock:
            self._path(batch.number).unlink(missing_ok=True)
            self._bytes -= self._sizes.pop(batch.number, 0)

    def close(self) -> None:
        """Let another process use the folder."""
        self._guard.close()

    def _scan(self) -> None:
        for stray in self._folder.glob("*.tmp"):
            stray.unlink(missing_ok=True)
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path.stem.isdecimal():
                size = path.stat().st_size
                self._sizes[int(path.stem)] = size
                self._bytes += size
                self._next_number = int(path.stem) + 1

    def _read(self, number: int) -> SpooledBatch | None:
        path = self._path(number)
        try:
            source = path.read_bytes()
            content = source[len(_MAGIC) + 4 :]
            if source[: len(_MAGIC)] != _MAGIC or source[len(_MAGIC) :][:4] != _checked(content):
                raise ValueError("its checksum is wrong")
            destination, headers, bodies = msgpack.unpackb(content)
            return SpooledBatch(number, destination, headers, bodies)
        except (OSError, ValueError, TypeError) as error:
            log.error("spool file %s cannot be read and goes to damaged/: %s", path.name, error)
        with self._lock:
            damaged = self._folder / "damaged"
            damaged.mkdir(exist_ok=True)
            if path.exists():
                path.rename(damaged / path.name)
            self._bytes -= self._sizes.pop(number, 0)
        return None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:020d}{_SUFFIX}"


def _checked(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "big")
