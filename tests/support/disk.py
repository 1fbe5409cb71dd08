"""A simulated disk behind the store's FileSystem port: what was not synced may be lost, torn or reordered.

Every call is counted; a plan may crash, fail or stall any of them, and a full disk refuses writes that need space.
After a failed sync the cache goes on showing what the disk lacks, as Linux does.  All choices come from one seeded
`random.Random`, so a seed replays a failure exactly.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

SECTOR_BYTES = 512


class Crashed(BaseException):
    """The machine lost its power in the middle of a call."""


class _Inode:
    def __init__(self) -> None:
        self.cache = bytearray()
        self.disk = bytearray()
        self.unsynced: list[tuple[int, bytes]] = []
        self.reserved_bytes = 0


class SimulatedDisk:
    """A whole file system in memory.  `call_count` counts calls; `before_call(name, count)` may raise."""

    def __init__(self, seed: int = 0, capacity_bytes: int = 1 << 40) -> None:
        self.random = random.Random(seed)
        self.capacity_bytes = capacity_bytes
        self.call_count = 0
        self.calls: list[str] = []
        self.crash_at: int | None = None
        self.before_call: Callable[[str, int], None] | None = None
        self.is_dead = False
        self._names: dict[str, _Inode] = {}
        self._synced_names: dict[str, _Inode] = {}
        self._name_changes: dict[str, list[tuple[str, _Inode | None]]] = {}
        self._folders: set[str] = {"/"}
        self.generation = 0

    # What a test does to the disk.

    def crash(self) -> None:
        """Lose the power: keep what was synced, and any part of the rest, in any order."""
        names = dict(self._synced_names)
        for changes in self._name_changes.values():
            for name, inode in changes:
                if self.random.random() < 0.5:
                    if inode is None:
                        names.pop(name, None)
                    else:
                        names[name] = inode
        for inode in {id(i): i for i in [*names.values(), *self._names.values()]}.values():
            self._tear(inode)
        self._names = names
        self._synced_names = dict(names)
        self._name_changes = {}
        self.crash_at = None
        self.before_call = None
        self.is_dead = False
        self.generation += 1

    def _tear(self, inode: _Inode) -> None:
        writes = [w for w in inode.unsynced if self.random.random() < 0.6]
        self.random.shuffle(writes)
        for offset, content in writes:
            if self.random.random() < 0.4 and len(content) > 1:
                content = self._torn(offset, content)
            _put(inode.disk, offset, content)
        inode.cache = bytearray(inode.disk)
        inode.unsynced = []

    def _torn(self, offset: int, content: bytes) -> bytes:
        if self.random.random() < 0.5:
            return content[: self.random.randrange(len(content))]
        # Some sectors arrive, others stay as they were: zeros in a prewritten file.
        torn = bytearray(content)
        for start in range(-(offset % SECTOR_BYTES), len(content), SECTOR_BYTES):
            if self.random.random() < 0.5:
                low, high = max(start, 0), min(start + SECTOR_BYTES, len(content))
                torn[low:high] = bytes(high - low)
        return bytes(torn)

    def flip(self, path: str, offset: int, mask: int = 0xFF) -> None:
        """Damage one byte at rest."""
        inode = self._names[path]
        inode.cache[offset] ^= mask
        inode.disk[offset] ^= mask

    def content(self, path: str) -> bytes:
        return bytes(self._names[path].cache)

    def paths(self) -> list[str]:
        return sorted(self._names)

    def kill(self) -> None:
        """Kill the process, not the machine: the cache lives on, open files do not."""
        self.crash_at = None
        self.before_call = None
        self.is_dead = False
        self.generation += 1

    def used_bytes(self) -> int:
        inodes = {id(i): i for i in self._names.values()}.values()
        return sum(max(len(i.cache), i.reserved_bytes) for i in inodes)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.call_count += 1
        if self.is_dead:
            raise Crashed
        if self.crash_at is not None and self.call_count >= self.crash_at:
            self.is_dead = True
            raise Crashed
        if self.before_call is not None:
            self.before_call(name, self.call_count)

    def _take_space(self, inode: _Inode, end: int) -> None:
        grown = max(end, inode.reserved_bytes) - max(len(inode.cache), inode.reserved_bytes)
        if grown > 0 and self.used_bytes() + grown > self.capacity_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _change(self, path: str, inode: _Inode | None) -> None:
        folder = path.rpartition("/")[0]
        self._name_changes.setdefault(folder, []).append((path, inode))
        if inode is None:
            del self._names[path]
        else:
            self._names[path] = inode

    # The port.

    def create(self, path: str) -> SimulatedFile:
        self._call("create")
        if path in self._names:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        inode = _Inode()
        self._change(path, inode)
        return SimulatedFile(self, inode)

    def open(self, path: str, is_writable: bool = False) -> SimulatedFile:
        self._call("open")
        return SimulatedFile(self, self._inode(path))

    def read_whole(self, path: str) -> bytes:
        self._call("read")
        return bytes(self._inode(path).cache)

    def _inode(self, path: str) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return inode

    def make_folder(self, path: str) -> None:
        self._call("make_folder")
        while path and path not in self._folders:
            self._folders.add(path)
            path = path.rpartition("/")[0]

    def sync_folder(self, path: str) -> None:
        self._call("sync_folder")
        for name, inode in self._name_changes.pop(path, []):
            if inode is None:
                self._synced_names.pop(name, None)
            else:
                self._synced_names[name] = inode

    def listdir(self, path: str) -> list[str]:
        self._call("listdir")
        start = path + "/"
        return sorted(
            name[len(start) :]
            for name in self._names
            if name.startswith(start) and "/" not in name[len(start) :]
        )

    def exists(self, path: str) -> bool:
        self._call("exists")
        return path in self._names

    def rename(self, source: str, target: str) -> None:
        self._call("rename")
        inode = self._inode(source)
        self._change(target, inode)
        self._change(source, None)

    def link(self, source: str, target: str) -> None:
        self._call("link")
        if target in self._names:
            raise FileExistsError(errno.EEXIST, "File exists", target)
        self._change(target, self._inode(source))

    def unlink(self, path: str) -> None:
        self._call("unlink")
        self._inode(path)
        self._change(path, None)

    def free_bytes(self, path: str) -> int:
        self._call("free_bytes")
        return max(0, self.capacity_bytes - self.used_bytes())


class SimulatedFile:
    """An open file; dead once the machine crashed."""

    def __init__(self, disk: SimulatedDisk, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode
        self._generation = disk.generation

    def _call(self, name: str) -> None:
        assert self._generation == self._disk.generation, "a file from before the crash was used"
        self._disk._call(name)

    def read(self, offset: int, count: int) -> bytes:
        self._call("read")
        return bytes(self._inode.cache[offset : offset + count])

    def write(self, offset: int, parts: list[bytes]) -> int:
        content = b"".join(parts)
        inode = self._inode
        try:
            self._call("write")
        except Crashed:
            # Part of it may have reached the cache, and from there the disk.
            cut = self._disk.random.randrange(len(content) + 1)
            inode.unsynced.append((offset, content[:cut]))
            raise
        self._disk._take_space(inode, offset + len(content))
        _put(inode.cache, offset, content)
        inode.unsynced.append((offset, content))
        return len(content)

    def sync(self) -> None:
        inode = self._inode
        try:
            self._call("sync")
        except OSError:
            # The pages are marked clean: no later sync will write them.
            inode.unsynced = []
            raise
        for offset, content in inode.unsynced:
            _put(inode.disk, offset, content)
        inode.unsynced = []

    def reserve(self, size_bytes: int, is_prewritten: bool) -> None:
        self._call("reserve")
        inode = self._inode
        self._disk._take_space(inode, size_bytes)
        inode.reserved_bytes = size_bytes
        content = bytes(size_bytes)
        _put(inode.cache, 0, content)
        inode.unsynced.append((0, content))

    def size_bytes(self) -> int:
        return len(self._inode.cache)

    def forget_cached(self) -> None:
        self._call("forget_cached")
        if not self._inode.unsynced:
            self._inode.cache = bytearray(self._inode.disk)

    def close(self) -> None:
        """Nothing is lost by closing."""


def _put(target: bytearray, offset: int, content: bytes) -> None:
    end = offset + len(content)
    if len(target) < end:
        target.extend(bytes(end - len(target)))
    target[offset:end] = content
