"""What may befall the owner of a store, done to real processes; afterwards everything comes back without a person.

A process that ended is started again, as a service manager would.  `revoked` needs each broker in a mount namespace of its own
(`Pair(..., is_mounted=True)`), `reactor` and `disk` the program `HANGING`.
"""

from __future__ import annotations

import contextlib
import fcntl
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from broker.failover import EXIT_HUNG
from tests.support.failover import Node, Pair

CHATTR = shutil.which("chattr")

HANGING = """
import os, threading, time
from store import files

trigger = {trigger!r}
sync = files.RealFile.sync

def hang(kind):
    while os.path.exists(trigger + kind):
        time.sleep(0.02)

def hanging(self):
    hang(".disk")
    sync(self)

def watch():
    from twisted.internet import reactor
    while True:
        time.sleep(0.02)
        if os.path.exists(trigger + ".reactor"):
            reactor.callFromThread(hang, ".reactor")
            hang(".reactor")

files.RealFile.sync = hanging
threading.Thread(target=watch, daemon=True).start()
from broker.cli import main
main()
"""


def can_freeze(folder: Path) -> bool:
    """Whether files here can be made immutable: root, and a file system that knows how."""
    probe = folder / "probe"
    probe.touch()
    is_able = CHATTR is not None and freeze(probe, True)
    if is_able:
        freeze(probe, False)
    probe.unlink()
    return is_able


def freeze(path: Path, is_frozen: bool) -> bool:
    assert CHATTR is not None
    words = [CHATTR, "+i" if is_frozen else "-i", str(path)]
    return not subprocess.run(words, capture_output=True, check=False).returncode  # noqa: S603


def can_unshare(*options: str) -> bool:
    """Whether we may make namespaces."""
    words = ["unshare", *options, "true"]
    with contextlib.suppress(OSError):
        return not subprocess.run(words, capture_output=True, check=False).returncode  # noqa: S603
    return False


class Faults:
    """The faults by name; each is a context: the fault on entering, what heals it on leaving."""

    def __init__(self, pair: Pair, dice: random.Random) -> None:
        self.pair = pair
        self.dice = dice
        self.kinds = {
            "kill -9": self.kill,
            "stopped, woken after the take-over": self.stop,
            "clean stop": self.clean,
            "torn lease": self.torn,
            "torn renewal": self.torn_renewal,
            "foreign locks": self.locked,
        }
        if can_freeze(pair.data):
            self.kinds["unwritable lease"] = self.unwritable
            self.kinds["unwritable folder"] = self.unwritable_folder
        if pair.is_mounted:
            self.kinds["revoked mount"] = self.revoked
        if pair.nodes[0].trigger:
            self.kinds["hung reactor"] = self.hung_reactor
            self.kinds["hung disk"] = self.hung_disk

    def order(self, count: int) -> list[str]:
        """So many kinds, each about equally often."""
        found: list[str] = []
        while len(found) < count:
            some = list(self.kinds)
            self.dice.shuffle(some)
            found += some
        return found[:count]

    @contextlib.contextmanager
    def kill(self, victim: Node) -> Iterator[None]:
        victim.kill()
        yield

    @contextlib.contextmanager
    def stop(self, victim: Node) -> Iterator[None]:
        victim.send_signal(signal.SIGSTOP)
        try:
            yield
            time.sleep(self.dice.random() * 0.3)
        finally:
            victim.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def clean(self, victim: Node) -> Iterator[None]:
        victim.send_signal(signal.SIGTERM)
        assert victim.process is not None and victim.process.wait(30) == 0
        yield

    @contextlib.contextmanager
    def torn(self, victim: Node) -> Iterator[None]:
        victim.kill()
        self.pair.lease_files()[-1].write_bytes(self.dice.randbytes(self.dice.randrange(6000)))
        yield

    @contextlib.contextmanager
    def torn_renewal(self, victim: Node) -> Iterator[None]:
        victim.send_signal(signal.SIGSTOP)
        with self.pair.lease_files()[-1].open("r+b") as file:
            file.seek(4096 + self.dice.randrange(200))
            file.write(bytes(100))
        victim.kill()
        yield

    @contextlib.contextmanager
    def locked(self, victim: Node) -> Iterator[None]:
        """POSIX and flock locks of another process on every file of the store."""
        with contextlib.ExitStack() as held:
            for path in (self.pair.data / "broker").rglob("*"):
                with contextlib.suppress(OSError):
                    if path.is_file():
                        file = held.enter_context(path.open("r+b"))
                        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            victim.kill()
            yield

    @contextlib.contextmanager
    def unwritable(self, victim: Node) -> Iterator[None]:
        lease = self.pair.lease_files()[-1]
        assert freeze(lease, True)
        try:
            yield
        finally:
            freeze(lease, False)

    @contextlib.contextmanager
    def unwritable_folder(self, victim: Node) -> Iterator[None]:
        """Nobody can claim; once it is writable again, somebody does."""
        folder = self.pair.data / "broker" / "lease"
        assert freeze(folder, True)
        try:
            victim.kill()
            time.sleep(0.2 + self.dice.random())
            assert not self.pair.other(victim).listens()
        finally:
            freeze(folder, False)
        yield

    @contextlib.contextmanager
    def revoked(self, victim: Node) -> Iterator[None]:
        """The folder is gone for the owner, what it has open works on; later it is back."""
        victim.in_mounts("umount", "-l", str(victim.data / "broker"))
        try:
            yield
        finally:
            if victim.is_alive():
                victim.in_mounts(
                    "mount", "--bind", str(self.pair.data / "broker"), str(victim.data / "broker")
                )

    @contextlib.contextmanager
    def hung_reactor(self, victim: Node) -> Iterator[None]:
        with self._hung(victim, ".reactor"):
            yield

    @contextlib.contextmanager
    def hung_disk(self, victim: Node) -> Iterator[None]:
        with self._hung(victim, ".disk"):
            yield

    @contextlib.contextmanager
    def _hung(self, victim: Node, kind: str) -> Iterator[None]:
        trigger = Path(victim.trigger + kind)
        trigger.touch()
        try:
            yield
            # It ends itself: nobody may be held by what can promise nothing.
            assert victim.process is not None and victim.process.wait(20) == EXIT_HUNG
        finally:
            trigger.unlink()


def imitate_hangs(pair: Pair, folder: Path) -> None:
    """Give each broker a file at which its reactor or its syncs hang."""
    for node in pair.nodes:
        node.trigger = str(folder / f"hang-{node.name}")
        node.program = ["-c", HANGING.format(trigger=node.trigger)]
