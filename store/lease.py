"""Who may write: one file per ownership, `lease/epoch-<n>`, and the proof that a former owner is dead.

Each opening claims the next epoch by linking a complete, synced file, so that two claimants cannot both win.
A claim in force is one that is neither released nor made by a process proved dead.  Not yet here: renewal and
expiry by time for owners on other hosts (failover).  Tests: tests/unit/store/test_journal_traps.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import zlib
from typing import Final, Protocol, final

from store.errors import Fenced, StoreError
from store.files import FileSystem, RealFiles

LEASE_MAGIC: Final = "gridmsg-lease 1"
_NAME: Final = "epoch-"


class InUse(StoreError):
    """Another living process owns the store."""


@final
class Identity:
    """What tells one process from all others, on this host and others."""

    __slots__ = ("boot_id", "host", "namespace", "pid", "start_time")

    def __init__(self, host: str, pid: int, start_time: str, boot_id: str, namespace: str) -> None:
        self.host = host
        self.pid = pid
        self.start_time = start_time
        self.boot_id = boot_id
        self.namespace = namespace


class Host(Protocol):
    """Knows who we are and who is dead."""

    def identity(self) -> Identity:
        """This process."""
        ...

    def is_dead(self, owner: Identity) -> bool:
        """Whether the owner is *proved* dead; False when nothing can be said."""
        ...


@final
class RealHost:
    """The kernel's word, through /proc."""

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files = RealFiles()

    def _text(self, path: str) -> str:
        try:
            return self._files.read_whole(path).decode("ascii", "replace").strip()
        except OSError:
            return ""

    def _stat(self, pid: int) -> tuple[str, str]:
        # The name in parentheses may hold blanks; state and start time are counted from behind it.
        fields = self._text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return (fields[0], fields[19]) if len(fields) > 19 else ("", "")

    def _namespace(self) -> str:
        try:
            return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 -- a name, not a path
        except OSError:
            return ""

    def identity(self) -> Identity:
        """Read our own start time, boot id and pid namespace."""
        pid = os.getpid()
        boot_id = self._text("/proc/sys/kernel/random/boot_id")
        return Identity(socket.gethostname(), pid, self._stat(pid)[1], boot_id, self._namespace())

    def is_dead(self, owner: Identity) -> bool:
        """Same boot and namespace: the pid is gone, reused or a zombie.  Same host, other boot: dead by the reboot."""
        boot_id = self._text("/proc/sys/kernel/random/boot_id")
        if owner.boot_id != boot_id:
            return bool(boot_id) and owner.host == socket.gethostname()
        if owner.namespace != self._namespace():
            return False
        state, start_time = self._stat(owner.pid)
        return not state or start_time != owner.start_time or state in "ZX"


@final
class Lease:
    """Our right to write, under one epoch."""

    __slots__ = ("_claim", "_files", "_folder", "_next_path", "_owner", "epoch")

    def __init__(
        self, files: FileSystem, folder: str, epoch: int, claim: str, owner: Identity
    ) -> None:
        self._files = files
        self._folder = folder
        self._claim = claim
        self._owner = owner
        self._next_path = f"{folder}/{_NAME}{epoch + 1:06d}"
        self.epoch = epoch

    def check(self) -> None:
        """Raise Fenced once a later epoch exists."""
        if self._files.exists(self._next_path):
            raise Fenced(f"the store was taken over: {self._next_path} exists")

    def release(self) -> None:
        """Say that nobody owns the store any more, so that the next start need not prove it."""
        path = f"{self._folder}/{_NAME}{self.epoch:06d}"
        content = _encode(self._owner, self.epoch, self._claim, is_released=True)
        file = self._files.open(path, is_writable=True)
        try:
            file.write(0, [content])
            file.sync()
        finally:
            file.close()


def _encode(owner: Identity, epoch: int, claim: str, is_released: bool) -> bytes:
    lines = [
        LEASE_MAGIC,
        f"epoch {epoch}",
        f"claim {claim}",
        f"host {owner.host}",
        f"pid {owner.pid}",
        f"start {owner.start_time}",
        f"boot {owner.boot_id}",
        f"namespace {owner.namespace}",
        # Same length in both states: the block is rewritten in place.
        f"state {'released' if is_released else 'owned   '}",
    ]
    text = "\n".join(lines) + "\n"
    return f"{text}crc {zlib.crc32(text.encode()):08x}\n".encode()


def _decode(raw: bytes) -> dict[str, str] | None:
    text, mark, crc = raw.decode("utf-8", "replace").rpartition("crc ")
    if not mark or f"{zlib.crc32(text.encode()):08x}\n" != crc:
        return None
    fields = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        fields[key] = value.strip()
    return fields


def is_lease_intact(raw: bytes) -> bool:
    """Whether a lease file is whole."""
    return _decode(raw) is not None


def highest_epoch(files: FileSystem, folder: str) -> int:
    """The highest epoch ever claimed in the folder; 0 when there was none."""
    highest = 0
    for name in files.listdir(folder):
        if name.startswith(_NAME) and name[len(_NAME) :].isdecimal():
            highest = max(highest, int(name[len(_NAME) :]))
    return highest


def claim_lease(files: FileSystem, folder: str, host: Host, epoch_min: int) -> Lease:
    """Claim the next epoch, at least `epoch_min`.  Raises InUse when a living process owns the store."""
    highest = highest_epoch(files, folder)
    if highest:
        _refuse_living(files, f"{folder}/{_NAME}{highest:06d}", host)
    epoch = max(highest + 1, epoch_min)
    owner = host.identity()
    claim = secrets.token_hex(16)
    content = _encode(owner, epoch, claim, is_released=False)
    draft = f"{folder}/claim-{claim}"
    target = f"{folder}/{_NAME}{epoch:06d}"
    file = files.create(draft)
    try:
        file.write(0, [content])
        file.sync()
    finally:
        file.close()
    try:
        # The claim read back says who won, not the answer of link: NFS may refuse the winner.
        with contextlib.suppress(FileExistsError):
            files.link(draft, target)
    finally:
        files.unlink(draft)
    fields = _decode(files.read_whole(target))
    if fields is None or fields.get("claim") != claim:
        raise InUse(f"another process claimed the store at the same time: {target}")
    files.sync_folder(folder)
    return Lease(files, folder, epoch, claim, owner)


def _refuse_living(files: FileSystem, path: str, host: Host) -> None:
    fields = _decode(files.read_whole(path))
    if fields is None or fields.get("state") == "released":
        # Torn: its owner died while writing it, before it promised anything or while releasing.
        return
    owner = Identity(
        fields.get("host", ""),
        int(fields.get("pid", "0")),
        fields.get("start", ""),
        fields.get("boot", ""),
        fields.get("namespace", ""),
    )
    if host.is_dead(owner):
        return
    raise InUse(
        f"the store is in use by process {owner.pid} on host {owner.host} ({path}); "
        "stop it first. If you know that it is dead (another host, or a container that is gone), remove that file's "
        "claim by writing an empty file in its place"
    )
