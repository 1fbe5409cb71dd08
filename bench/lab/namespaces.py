"""Network namespaces of one run of the lab: made, joined by devices, and always removed (Linux, root, iproute2).

Names are `gridmsg-lab-PID-SITE`; a run holds a lock on a file named by its process id, which the kernel lets go when it ends in
whatever way, so a later run can tell what a crashed one left behind and removes that: namespaces, and processes in them.
Tests: tests/interop/test_lab_packets.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from bench.lab import tun

PREFIX: Final = "gridmsg-lab-"
STATE: Final = Path("/run/gridmsg-lab")
MTU_BYTES: Final = 1500
DEVICE_PACKETS: Final = 10_000
"""Queue of a device, so that the emulated line drops and not the device."""
RECEIVE_BYTES_DEFAULT: Final = 131_072
SEND_BYTES_DEFAULT: Final = 65_536
COMMAND_SECONDS_MAX: Final = 60.0
END_SECONDS_MAX: Final = 5.0


class NoNamespaces(Exception):
    """This machine or user cannot make them; the text says what would."""


def objection() -> str | None:
    """Why the packet relay cannot run here, or None."""
    if not hasattr(os, "geteuid") or not Path("/proc/self/ns/net").exists():
        return "network namespaces are a matter of Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the command ip is missing (Debian: apt install iproute2)"
    if not Path(tun.DEVICE).exists():
        return f"{tun.DEVICE} is missing (modprobe tun)"
    probe = f"{PREFIX}{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
    except NoNamespaces as error:
        return str(error)
    try:
        os.close(tun.device(probe, "probe", is_joined=True))
    except OSError as error:
        return f"a TUN device cannot be made: {error}"
    finally:
        _ip("netns", "del", probe)
    return None


@final
class Namespaces:
    """The namespaces of this process's run."""

    def __init__(self) -> None:
        remove_leftovers()
        STATE.mkdir(parents=True, exist_ok=True)
        self._lock_path = STATE / str(os.getpid())
        self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._names: list[str] = []

    def add(self, site: str, socket_bytes: int) -> str:
        """Make the namespace of a site and return its name.

        `socket_bytes`: most that a socket's buffers grow to; 0 leaves the kernel's limits.
        """
        name = f"{PREFIX}{os.getpid()}-{site}"
        _ip("netns", "add", name)
        self._names.append(name)
        _ip("-n", name, "link", "set", "lo", "up")
        if socket_bytes:
            with tun.inside(name):
                for key, default in (
                    ("tcp_wmem", SEND_BYTES_DEFAULT),
                    ("tcp_rmem", RECEIVE_BYTES_DEFAULT),
                ):
                    text = f"4096 {default} {max(socket_bytes, default)}"
                    Path(f"/proc/sys/net/ipv4/{key}").write_text(text)
        return name

    def raise_device(self, name: str, device: str, address: str) -> None:
        """Give a device its address and bring it up."""
        queue = str(DEVICE_PACKETS)
        _ip("-n", name, "link", "set", device, "mtu", str(MTU_BYTES), "txqueuelen", queue, "up")
        _ip("-n", name, "addr", "add", f"{address}/30", "dev", device)

    def reset_connections(self, name: str, other_address: str) -> None:
        """Kill the connections of a namespace with one address, as a router that lost its state would.

        Needs a kernel that can (`ss -K`); where it cannot, the cut stays silent.
        """
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                ["ip", "netns", "exec", name, "ss", "-K", "dst", other_address],
                capture_output=True,
                timeout=COMMAND_SECONDS_MAX,
                check=False,
            )

    def close(self) -> None:
        """Remove them all, with what still runs in them."""
        for name in self._names:
            _remove(name)
        self._names.clear()
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock_fd)


def remove_leftovers() -> list[str]:
    """Remove the namespaces of runs that are no more; return their names."""
    if not tun.NAMESPACES.is_dir():
        return []
    found = [one.name for one in tun.NAMESPACES.iterdir() if one.name.startswith(PREFIX)]
    dead = [name for name in found if not _is_alive(name.removeprefix(PREFIX).partition("-")[0])]
    for name in dead:
        _remove(name)
    for lock in STATE.glob("*") if STATE.is_dir() else ():
        if not _is_alive(lock.name):
            lock.unlink(missing_ok=True)
    return dead


def _is_alive(owner: str) -> bool:
    """Whether the run of that process id still holds its lock."""
    if owner == str(os.getpid()):
        return True
    try:
        fd = os.open(STATE / owner, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return Path(f"/proc/{owner}").exists()
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _remove(name: str) -> None:
    """Kill what runs in a namespace, then remove it."""
    deadline = time.monotonic() + END_SECONDS_MAX
    while time.monotonic() < deadline:
        pids = list(_pids(name))
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    with contextlib.suppress(NoNamespaces):
        _ip("netns", "del", name)


def _pids(name: str) -> Iterator[int]:
    with contextlib.suppress(NoNamespaces):
        for word in _ip("netns", "pids", name).split():
            if int(word) != os.getpid():
                yield int(word)


def _ip(*words: str) -> str:
    """Run `ip`; raises NoNamespaces with what it says."""
    try:
        done = subprocess.run(
            ["ip", *words],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNamespaces(f"ip {' '.join(words)}: {error}") from None
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
