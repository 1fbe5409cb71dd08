# ruff: noqa: PTH103, PTH104, PTH108, PTH116, PTH123, PTH208
"""The narrow door to the disk: the only module that opens, syncs, renames or unlinks (so: os, no pathlib).

Invariants: a method returns only when the operating system said yes; every failure is an OSError; nothing is
retried.  Knows nothing of segments or records.  The fake: tests/support/disk.py; tests:
tests/unit/store/test_journal.py, and the store's suite runs on both.
"""

from __future__ import annotations

import os
from typing import Final, Protocol, final

IOV_MAX: Final = 1024
"""Linux's limit on the buffers of one pwritev; more are joined first."""

ZEROS_BYTES: Final = 1 << 20

_ZEROS: Final = bytes(ZEROS_BYTES)

# macOS has no fdatasync; fsync promises at least as much.
_sync_content = getattr(os, "fdatasync", os.fsync)


class File(Protocol):
    """An open file, read and written at explicit offsets."""

    def read(self, offset: int, count: int) -> bytes:
        """Read up to `count` bytes; fewer only at the end of the file."""
        ...

    def write(self, offset: int, parts: list[bytes]) -> int:
        """Write the parts one after the other and return the bytes written: all, or OSError."""
        ...

    def sync(self) -> None:
        """Return once the content, and the length needed to read it, is on stable storage."""
        ...

    def reserve(self, size_bytes: int, is_prewritten: bool) -> None:
        """Take space for `size_bytes` ahead of need; prewritten: as real zeros, not only as a promise."""
        ...

    def size_bytes(self) -> int:
        """The length of the file."""
        ...

    def forget_cached(self) -> None:
        """Ask the system to drop its cached pages, so that reads show what the disk has."""
        ...

    def close(self) -> None:
        """Let go of the file; twice is harmless."""
        ...


class FileSystem(Protocol):
    """What the store needs of a file system.  Paths are absolute strings."""

    def create(self, path: str) -> File:
        """Make a new file for reading and writing; FileExistsError if the name is taken."""
        ...

    def open(self, path: str, is_writable: bool = False) -> File:
        """Open an existing file."""
        ...

    def read_whole(self, path: str) -> bytes:
        """The whole content of a (small) file."""
        ...

    def make_folder(self, path: str) -> None:
        """Make a folder and its parents; an existing one is fine."""
        ...

    def sync_folder(self, path: str) -> None:
        """Return once the names in the folder are on stable storage."""
        ...

    def listdir(self, path: str) -> list[str]:
        """The names in a folder, sorted."""
        ...

    def exists(self, path: str) -> bool:
        """Whether the name is taken; OSError when that cannot be told."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Give a file another name; an existing target is replaced."""
        ...

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; FileExistsError if it is taken."""
        ...

    def unlink(self, path: str) -> None:
        """Remove a name."""
        ...

    def free_bytes(self, path: str) -> int:
        """The space an ordinary user may still take on the file system of `path`."""
        ...


@final
class RealFile:
    """A file descriptor of the operating system."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, count: int) -> bytes:
        """Read up to `count` bytes; loops over short reads."""
        part = os.pread(self._fd, count, offset)
        if len(part) == count or not part:
            return part
        parts = [part]
        left = count - len(part)
        while left > 0 and part:
            part = os.pread(self._fd, left, offset + count - left)
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def write(self, offset: int, parts: list[bytes]) -> int:
        """Write all parts; a short write is continued, an error raised."""
        buffers = parts if len(parts) <= IOV_MAX else [b"".join(parts)]
        total = sum(map(len, buffers))
        written = os.pwritev(self._fd, buffers, offset)
        if written < total:
            rest = memoryview(b"".join(buffers))
            while written < total:
                written += os.pwrite(self._fd, rest[written:], offset + written)
        return total

    def sync(self) -> None:
        """Call fdatasync (fsync where there is none)."""
        _sync_content(self._fd)

    def reserve(self, size_bytes: int, is_prewritten: bool) -> None:
        """Call posix_fallocate, then write zeros: a later sync changes no metadata."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, size_bytes)
        if is_prewritten:
            for offset in range(0, size_bytes, ZEROS_BYTES):
                rest = size_bytes - offset
                self.write(offset, [_ZEROS if rest >= ZEROS_BYTES else _ZEROS[:rest]])

    def size_bytes(self) -> int:
        """Ask fstat."""
        return os.fstat(self._fd).st_size

    def forget_cached(self) -> None:
        """Call posix_fadvise(DONTNEED) where there is one."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the descriptor once."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@final
class RealFiles:
    """The file system of the machine."""

    __slots__ = ()

    def create(self, path: str) -> File:
        """Open with O_EXCL, mode 0640."""
        return RealFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))

    def open(self, path: str, is_writable: bool = False) -> File:
        """Open without creating."""
        mode = os.O_RDWR if is_writable else os.O_RDONLY
        return RealFile(os.open(path, mode | os.O_CLOEXEC))

    def read_whole(self, path: str) -> bytes:
        """Read to the end."""
        with open(path, "rb") as file:
            return file.read()

    def make_folder(self, path: str) -> None:
        """Make it with mode 0750."""
        os.makedirs(path, mode=0o750, exist_ok=True)

    def sync_folder(self, path: str) -> None:
        """Sync the folder's descriptor."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def listdir(self, path: str) -> list[str]:
        """List and sort."""
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        """Ask stat; only "no such file" means no."""
        try:
            os.stat(path)
        except FileNotFoundError:
            return False
        return True

    def rename(self, source: str, target: str) -> None:
        """Rename in one step."""
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """Make a hard link."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """Remove the name; open files live on."""
        os.unlink(path)

    def free_bytes(self, path: str) -> int:
        """Ask statvfs for what is available to us."""
        figures = os.statvfs(path)
        return figures.f_bavail * figures.f_frsize
