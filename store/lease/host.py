"""Who a process is, and the proof that it is dead: the kernel's word, never a guess.

Death is proved only within one boot of one kernel and one pid namespace: a number missing here may be alive in another
container, and another boot id under the same name may be another host.  Tests: tests/unit/store/test_lease_host.py.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Final, Protocol, final

from store.files import FileSystem, RealFiles

_DEAD: Final = "ZX"


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


class Processes(Protocol):
    """The process table of a host."""

    def exists(self, pid: int) -> bool:
        """Whether the number is taken; True when that cannot be told."""
        ...

    def stat(self, pid: int) -> tuple[str, str]:
        """State letter and start time in clock ticks; empty when they cannot be read."""
        ...

    def task_count(self, pid: int) -> int:
        """Threads of the process, dead ones included; 0 when that cannot be told."""
        ...


@final
class ProcFolder:
    """The process table as /proc shows it."""

    __slots__ = ("_files",)

    def __init__(self, files: FileSystem | None = None) -> None:
        self._files = files or RealFiles()

    def exists(self, pid: int) -> bool:
        """Signal 0: what /proc hides from us (hidepid) is still seen."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            return True
        return True

    def stat(self, pid: int) -> tuple[str, str]:
        """Read /proc/PID/stat; the name in parentheses may hold blanks, so fields are counted from behind it."""
        fields = _text(self._files, f"/proc/{pid}/stat").rpartition(")")[2].split()
        return (fields[0], fields[19]) if len(fields) > 19 else ("", "")

    def task_count(self, pid: int) -> int:
        """Count /proc/PID/task."""
        try:
            return len(self._files.listdir(f"/proc/{pid}/task"))
        except OSError:
            return 0


@final
class RealHost:
    """This host.  Name, boot id, pid namespace and process table may be given, to imitate another."""

    __slots__ = ("_boot_id", "_name", "_namespace", "_processes")

    def __init__(
        self,
        name: str | None = None,
        boot_id: str | None = None,
        namespace: str | None = None,
        processes: Processes | None = None,
    ) -> None:
        files = RealFiles()
        self._name = socket.gethostname() if name is None else name
        self._boot_id = (
            _text(files, "/proc/sys/kernel/random/boot_id") if boot_id is None else boot_id
        )
        self._namespace = _pid_namespace() if namespace is None else namespace
        self._processes = processes or ProcFolder(files)

    def identity(self) -> Identity:
        """This process, with its start time."""
        pid = os.getpid()
        start_time = self._processes.stat(pid)[1]
        return Identity(self._name, pid, start_time, self._boot_id, self._namespace)

    def is_dead(self, owner: Identity) -> bool:
        """Same boot and pid namespace, and the number is gone, reused, or a zombie without other tasks."""
        if not self._boot_id or owner.boot_id != self._boot_id:
            return False
        if not self._namespace or owner.namespace != self._namespace or owner.pid <= 0:
            return False
        if not self._processes.exists(owner.pid):
            return True
        state, start_time = self._processes.stat(owner.pid)
        if not state or not owner.start_time:
            return False
        if start_time != owner.start_time:
            return True
        # The first thread may be dead while others still write.
        return state in _DEAD and self._processes.task_count(owner.pid) == 1


def boot_seconds() -> float:
    """Seconds of a clock that goes on while the machine sleeps (CLOCK_BOOTTIME), where there is one."""
    return time.clock_gettime(_BOOT_CLOCK)


_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _text(files: FileSystem, path: str) -> str:
    try:
        return files.read_whole(path).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 -- a name, not a path
    except OSError:
        return ""
