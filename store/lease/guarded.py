"""File systems with a duty: one passes the guard before every rename and unlink, one gives signs of life.

Tests: tests/unit/store/test_lease_traps.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from store.files import File, FileSystem
from store.lease.held import Lease


@final
class GuardedFiles:
    """The owner's file system: no name is replaced or removed once the guard is closed."""

    __slots__ = ("_files", "_lease", "create", "exists", "free_bytes", "listdir", "open")

    def __init__(self, files: FileSystem, lease: Lease) -> None:
        self._files = files
        self._lease = lease
        self.create = files.create
        self.open = files.open
        self.exists = files.exists
        self.listdir = files.listdir
        self.free_bytes = files.free_bytes

    def read_whole(self, path: str) -> bytes:
        """Pass on."""
        return self._files.read_whole(path)

    def make_folder(self, path: str) -> None:
        """Pass on."""
        self._files.make_folder(path)

    def sync_folder(self, path: str) -> None:
        """Pass on."""
        self._files.sync_folder(path)

    def link(self, source: str, target: str) -> None:
        """Pass the guard first."""
        self._lease.check()
        self._files.link(source, target)

    def rename(self, source: str, target: str) -> None:
        """Pass the guard first."""
        self._lease.check()
        self._files.rename(source, target)

    def unlink(self, path: str) -> None:
        """Pass the guard first."""
        self._lease.check()
        self._files.unlink(path)


@final
class LivelyFile:
    """A file that tells of each call that returned."""

    __slots__ = ("_beat", "_file", "close", "size_bytes")

    def __init__(self, file: File, beat: Callable[[], None]) -> None:
        self._file = file
        self._beat = beat
        self.size_bytes = file.size_bytes
        self.close = file.close

    def read(self, offset: int, count: int) -> bytes:
        """Read, then beat."""
        found = self._file.read(offset, count)
        self._beat()
        return found

    def write(self, offset: int, parts: list[bytes]) -> int:
        """Write, then beat."""
        written = self._file.write(offset, parts)
        self._beat()
        return written

    def sync(self) -> None:
        """Sync, then beat."""
        self._file.sync()
        self._beat()

    def reserve(self, size_bytes: int, is_prewritten: bool) -> None:
        """Reserve, then beat."""
        self._file.reserve(size_bytes, is_prewritten)
        self._beat()

    def forget_cached(self) -> None:
        """Forget, then beat."""
        self._file.forget_cached()
        self._beat()


@final
class LivelyFiles:
    """What recovery reads through: renewal goes on only while its calls return."""

    __slots__ = (
        "_beat",
        "_files",
        "exists",
        "free_bytes",
        "link",
        "make_folder",
        "rename",
        "unlink",
    )

    def __init__(self, files: FileSystem, beat: Callable[[], None]) -> None:
        self._files = files
        self._beat = beat
        self.exists = files.exists
        self.free_bytes = files.free_bytes
        self.link = files.link
        self.make_folder = files.make_folder
        self.rename = files.rename
        self.unlink = files.unlink

    def create(self, path: str) -> File:
        """Create, then beat."""
        file = self._files.create(path)
        self._beat()
        return LivelyFile(file, self._beat)

    def open(self, path: str, is_writable: bool = False) -> File:
        """Open, then beat."""
        file = self._files.open(path, is_writable)
        self._beat()
        return LivelyFile(file, self._beat)

    def read_whole(self, path: str) -> bytes:
        """Read, then beat."""
        found = self._files.read_whole(path)
        self._beat()
        return found

    def sync_folder(self, path: str) -> None:
        """Sync, then beat."""
        self._files.sync_folder(path)
        self._beat()

    def listdir(self, path: str) -> list[str]:
        """List, then beat."""
        found = self._files.listdir(path)
        self._beat()
        return found
