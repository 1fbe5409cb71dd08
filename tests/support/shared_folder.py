"""Hosts, clocks and a shared folder in one thread of time: what the lease protocol is simulated in.

Everything happens in true time, which nobody sees.  Each host has its own clock, that runs at its own rate from its own offset; one
clock goes on while the host sleeps, the other stands still.  Each process has tasks, of which one runs at a
time; every call of the file system is a point where others may run, for as long as the seed says, and where
the process may be stopped or killed.  Names that did not exist may be remembered by a host for up to `lag_seconds` (NFS), content
of a file opened anew may be `stale_seconds` old, and a link whose caller was told of a failure may be made later.

Tasks are greenlets where that package is installed, else threads, which cost three times as much; histories are the same.
"""

from __future__ import annotations

import errno
import heapq
import random
import threading
from collections.abc import Callable
from types import ModuleType

from store.lease.host import Identity

greenlet: ModuleType | None
try:
    import greenlet
except ImportError:
    greenlet = None

LATE_LINK_CHANCE = 0.03
LOST_ANSWER_CHANCE = 0.05


class Killed(BaseException):
    """The process of this task is gone."""


class Task:
    """What a process does, from pause to pause."""

    def __init__(self, world: World, process: Process, body: Callable[[], None]) -> None:
        self.world = world
        self.process = process
        self._body = body
        self.is_done = False
        self.error: BaseException | None = None
        self._turns: Turns = LightTurns(self._run) if greenlet else ThreadTurns(self._run)

    def _run(self) -> None:
        try:
            if self.process.is_killed:
                raise Killed
            self._body()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.is_done = True

    def resume(self) -> None:
        """Let it run to its next pause."""
        self._turns.resume()

    def pause(self) -> None:
        """Let the world go on; called in the task."""
        self._turns.pause()
        if self.process.is_killed:
            raise Killed


class LightTurns:
    """A greenlet, and the world it came from."""

    def __init__(self, run: Callable[[], None]) -> None:
        assert greenlet is not None
        self._light = greenlet.greenlet(run)

    def resume(self) -> None:
        self._light.parent = greenlet.getcurrent()
        self._light.switch()

    def pause(self) -> None:
        self._light.parent.switch()


class ThreadTurns:
    """A thread that runs only while it has the baton."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._body = run
        # Plain locks: a semaphore costs ten times as much.
        self._go = threading.Lock()
        self._go.acquire()
        self._done = threading.Lock()
        self._done.acquire()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._go.acquire()
        self._body()
        self._done.release()

    def resume(self) -> None:
        self._go.release()
        self._done.acquire()

    def pause(self) -> None:
        self._done.release()
        self._go.acquire()


Turns = LightTurns | ThreadTurns


class World:
    """True time, and whose turn it is."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self._queue: list[tuple[float, int, Task]] = []
        self._number = 0
        self.processes: list[Process] = []
        self.current: Task | None = None
        self.event_count = 0

    def add(self, task: Task, delay: float = 0.0) -> None:
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay, self._number, task))

    def run(self, until: float) -> None:
        """Run tasks in the order of true time; raises the first error of a task."""
        while self._queue and self._queue[0][0] <= until:
            at, _, task = heapq.heappop(self._queue)
            resume_at = task.process.stopped_until
            if resume_at > at and not task.process.is_killed:
                self._number += 1
                heapq.heappush(self._queue, (resume_at, self._number, task))
                continue
            self.now = max(self.now, at)
            self.event_count += 1
            self.current = task
            task.resume()
            if task.error is not None:
                raise task.error
        self.now = max(self.now, until)

    def wait(self, delay: float) -> None:
        """Let others run for so long in true time; called in a task."""
        task = self.current
        assert task is not None
        self.add(task, delay)
        task.pause()

    def end(self) -> None:
        """Kill everything, so that no thread is left."""
        for process in self.processes:
            process.is_killed = True
        while self._queue:
            _, _, task = heapq.heappop(self._queue)
            if not task.is_done:
                self.current = task
                task.resume()


class Process:
    """A process on a host, with tasks."""

    def __init__(self, world: World, host: SimHost, pid: int) -> None:
        self.world = world
        self.host = host
        self.pid = pid
        self.is_killed = False
        self.stopped_until = 0.0
        host.alive.add(pid)
        world.processes.append(self)

    def start(self, body: Callable[[], None], delay: float = 0.0) -> Task:
        task = Task(self.world, self, body)
        self.world.add(task, delay)
        return task

    def kill(self) -> None:
        self.is_killed = True
        self.host.alive.discard(self.pid)

    def stop(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long; the host and its clock go on."""
        self.stopped_until = max(self.stopped_until, self.world.now + seconds)


class SimHost:
    """A host: its clocks, its process table, its word on who is dead."""

    def __init__(self, world: World, name: str, rate: float, offset: float, boot_id: str) -> None:
        self.world = world
        self.name = name
        self.rate = rate
        self.offset = offset
        self.boot_id = boot_id
        self.namespace = "pid:[1]"
        self.alive: set[int] = set()
        self.slept_seconds = 0.0

    def boot_clock(self) -> float:
        return self.offset + self.world.now * self.rate

    def standing_clock(self) -> float:
        """A clock that stands still while the host sleeps."""
        return self.boot_clock() - self.slept_seconds * self.rate

    def suspend(self, seconds: float) -> None:
        """Sleep, with all processes."""
        self.slept_seconds += seconds
        for process in self.world.processes:
            if process.host is self:
                process.stop(seconds)

    def identity_of(self, pid: int) -> Identity:
        return Identity(self.name, pid, str(pid), self.boot_id, self.namespace)

    def is_dead(self, owner: Identity) -> bool:
        if owner.boot_id != self.boot_id or owner.namespace != self.namespace:
            return False
        return owner.pid not in self.alive


class HostOf:
    """The host as one process sees it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def identity(self) -> Identity:
        return self._process.host.identity_of(self._process.pid)

    def is_dead(self, owner: Identity) -> bool:
        return self._process.host.is_dead(owner)


class Server:
    """The file server's truth: names, contents, and when each name came."""

    def __init__(self, world: World, lag_seconds: float = 0.0, stale_seconds: float = 0.0) -> None:
        self.world = world
        self.lag_seconds = lag_seconds
        self.stale_seconds = stale_seconds
        self.versions: dict[str, list[tuple[float, bytes]]] = {}
        self.files: dict[str, bytearray] = {}
        self.born: dict[str, float] = {}
        self.views: dict[tuple[str, str], float] = {}
        # Runs what happens later than its caller was told.
        self.daemon = Process(world, SimHost(world, "server", 1.0, 0.0, "server"), 1)
        self.late_count = 0

    def put_late(self, path: str, content: bytes, delay: float) -> None:
        """A link that is made after its caller was told that it failed, if the name is still free then."""

        def put() -> None:
            if path not in self.files:
                self.late_count += 1
                self.put(path, content)
                self.note_version(path)

        self.daemon.start(put, delay)

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = bytearray(content)
        self.born.setdefault(path, self.world.now)

    def note_version(self, path: str) -> None:
        if self.stale_seconds:
            rows = self.versions.setdefault(path, [])
            rows.append((self.world.now, bytes(self.files[path])))

    def read(self, path: str) -> bytes:
        """The content as it was up to `stale_seconds` ago."""
        rows = self.versions.get(path)
        if not self.stale_seconds or not rows:
            return bytes(self.files[path])
        as_of = self.world.now - self.world.random.random() * self.stale_seconds
        return next((raw for at, raw in reversed(rows) if at <= as_of), rows[0][1])

    def is_seen(self, host: str, path: str) -> bool:
        """Whether a host's memory of absent names lets it see the name by now."""
        if path not in self.files:
            return False
        key = (host, path)
        if key not in self.views:
            self.views[key] = self.born[path] + self.world.random.random() * self.lag_seconds
        return self.world.now >= self.views[key]


class Mount:
    """The folder as one process sees it: the store's FileSystem port, each call a point where the world goes on."""

    def __init__(self, server: Server, process: Process, pause: Callable[[str], None]) -> None:
        self._server = server
        self._process = process
        self._pause = pause
        self.is_writable = True
        self.writable_at = 0.0
        self.late_seconds = 1.0

    def _call(self, name: str) -> None:
        self._pause(name)

    def _check_writable(self, path: str) -> None:
        if not self.is_writable or self._server.world.now < self.writable_at:
            raise PermissionError(errno.EACCES, "Permission denied", path)

    def create(self, path: str) -> SharedFile:
        self._call("create")
        self._check_writable(path)
        if path in self._server.files:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        self._server.put(path, b"")
        self._server.views[self._process.host.name, path] = 0.0
        return SharedFile(self, self._server.files[path], path)

    def open(self, path: str, is_writable: bool = False) -> SharedFile:
        self._call("open")
        if is_writable:
            self._check_writable(path)
        if path not in self._server.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return SharedFile(self, self._server.files[path], path)

    def read_whole(self, path: str) -> bytes:
        self._call("read")
        if path not in self._server.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        found = self._server.read(path)
        # The answer is on its way.
        self._call("answer")
        return found

    def make_folder(self, path: str) -> None:
        self._call("make_folder")

    def sync_folder(self, path: str) -> None:
        self._call("sync_folder")

    def listdir(self, path: str) -> list[str]:
        self._call("listdir")
        start = path + "/"
        host = self._process.host.name
        return sorted(
            name[len(start) :]
            for name in self._server.files
            if name.startswith(start)
            and "/" not in name[len(start) :]
            and self._server.is_seen(host, name)
        )

    def exists(self, path: str) -> bool:
        self._call("exists")
        found = self._server.is_seen(self._process.host.name, path)
        self._call("answer")
        return found

    def rename(self, source: str, target: str) -> None:
        self._call("rename")
        self._check_writable(target)
        self._server.put(target, bytes(self._server.files.pop(source)))

    def link(self, source: str, target: str) -> None:
        self._call("link")
        self._check_writable(target)
        if source not in self._server.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", source)
        if target in self._server.files:
            raise FileExistsError(errno.EEXIST, "File exists", target)
        dice = self._server.world.random
        if dice.random() < LATE_LINK_CHANCE:
            raw = bytes(self._server.files[source])
            self._server.put_late(target, raw, dice.random() * self.late_seconds)
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out", target)
        self._server.put(target, bytes(self._server.files[source]))
        self._server.note_version(target)
        self._server.views[self._process.host.name, target] = 0.0
        if dice.random() < LOST_ANSWER_CHANCE:
            # The answer got lost; the retry found the name taken.
            raise FileExistsError(errno.EEXIST, "File exists", target)

    def unlink(self, path: str) -> None:
        self._call("unlink")
        self._check_writable(path)
        if self._server.files.pop(path, None) is None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def free_bytes(self, path: str) -> int:
        return 1 << 40


class SharedFile:
    """An open file of the server; what is written is seen by all at once."""

    def __init__(self, mount: Mount, content: bytearray, path: str) -> None:
        self._mount = mount
        self._path = path
        self._content = content

    def read(self, offset: int, count: int) -> bytes:
        self._mount._call("read")
        return bytes(self._content[offset : offset + count])

    def write(self, offset: int, parts: list[bytes]) -> int:
        raw = b"".join(parts)
        if len(self._content) < offset + len(raw):
            self._content.extend(bytes(offset + len(raw) - len(self._content)))
        # A reader in between sees a torn block.
        half = len(raw) // 2
        self._content[offset : offset + half] = raw[:half]
        self._mount._call("write")
        self._content[offset + half : offset + len(raw)] = raw[half:]
        if self._path in self._mount._server.files:
            self._mount._server.note_version(self._path)
        return len(raw)

    def sync(self) -> None:
        self._mount._call("sync")

    def reserve(self, size_bytes: int, is_prewritten: bool) -> None:
        self._mount._call("reserve")

    def size_bytes(self) -> int:
        return len(self._content)

    def forget_cached(self) -> None:
        """There is no cache."""

    def close(self) -> None:
        """Nothing to do."""
