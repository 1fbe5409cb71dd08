"""TUN devices inside named network namespaces, and entering such a namespace (Linux, root).

Each packet comes with the kernel's virtio header, which is handed on as it came: so no checksum is computed here, and
with `is_joined` up to 64 KiB of a stream's segments travel as one packet.  Tests: tests/interop/test_lab_packets.py.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

NAMESPACES: Final = Path("/run/netns")
DEVICE: Final = "/dev/net/tun"
HEADER_BYTES: Final = 10
"""The virtio header in front of each packet."""
PACKET_BYTES_MAX: Final = 65_536 + HEADER_BYTES

_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUN_NO_INFO_VNET: Final = 0x0001 | 0x1000 | 0x4000  # IFF_TUN, IFF_NO_PI, IFF_VNET_HDR
_CHECKSUM: Final = 0x01
_SEGMENTATION: Final = 0x02 | 0x04 | 0x08  # TSO for IPv4, for IPv6, with ECN
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29
_NAME_BYTES_MAX: Final = 15

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(namespace: str) -> None:
    """Move the calling thread, and what it starts or opens from now on, into a named namespace."""
    fd = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, _CLONE_NEWNET), f"entering the namespace {namespace}")
    finally:
        os.close(fd)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a namespace while the block runs, and back afterwards."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        try:
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET), "leaving the namespace")
    finally:
        os.close(home)


def device(namespace: str, name: str, *, is_joined: bool) -> int:
    """Make a TUN device in a namespace; it lives as long as the descriptor, which does not block.  Raises OSError."""
    assert len(name.encode()) <= _NAME_BYTES_MAX, f"{name}: the kernel takes 15 bytes"
    with inside(namespace):
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_NO_INFO_VNET))
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _CHECKSUM | (_SEGMENTATION if is_joined else 0))
        except OSError:
            os.close(fd)
            raise
    return fd


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends (Linux; elsewhere nothing happens)."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def wake_precisely() -> None:
    """Ask for timers of this thread without the kernel's usual 50 microseconds of slack."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
