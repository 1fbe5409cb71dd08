"""The machine's disk full for ten seconds under load: nothing answered OK is lost, and all goes on by itself.

The whole data folder (broker, spool, database) lies on a small file system of its own; a file takes all of its space.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.site import Site, is_slow_wanted, wait_until_stored
from tests.support.usage import Probe
from tests.support.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.crash

# The promise is ten seconds; GRIDMSG_SLOW=1 holds it.
FULL_S = float(os.environ.get("GRIDMSG_FULL_SECONDS", "10" if is_slow_wanted() else "4"))
SENDERS = 8
RECORDS_PER_S = 600
DISK_MB = 256
LEFT_BYTES_MAX = 64 << 10
"""Of a disk that is full."""
# The defaults are for real disks; the same in proportion.
CONFIG = """
[broker]
disk-reserve = "16MiB"
[store]
segment-size = "2MiB"
checkpoint-size = "4MiB"
reserve-size = "6MiB"
"""
if is_slow_wanted():
    # The usual lease: it is renewed on the full disk too.
    CONFIG += '[failover]\nlease = "5s"\n'
NOTICED = re.compile("publishers wait|No space left|disk is full")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of DISK_MB: ext4 in a file where the machine lets us, else tmpfs."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(DISK_MB << 20)
    made = shutil.which("mkfs.ext4") is not None and not (
        _run("mkfs.ext4", "-q", "-m", "0", str(image)) or _run("mount", "-o", "loop", image, place)
    )
    if not made and _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", place):
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield place
    finally:
        for _ in range(20):
            if not _run("umount", place):
                break
            time.sleep(0.5)


def _run(*words: str | Path) -> int:
    return subprocess.run(words, capture_output=True, check=False).returncode


@pytest.fixture
def site(disk: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site", CONFIG)
    made.data = disk / "data"
    try:
        made.start_site()
        yield made
    finally:
        made.close()


def fill(
    path: Path, seconds: float, halfway: Callable[[], None], is_noticed: Callable[[], bool]
) -> None:
    """Take every free byte, and what becomes free meanwhile, for some seconds and until it is noticed; then give it all back."""
    is_filled = False
    began = time.monotonic()
    is_halfway = False
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            _take(file.fileno(), size)
        while (passed := time.monotonic() - began) < seconds or not is_noticed():
            assert passed < seconds + PATIENCE_SECONDS, "nobody noticed"
            _take(file.fileno(), 4096)
            # The broker gives and takes space meanwhile, and a block may be smaller than what is taken here.
            there = os.statvfs(path.parent)
            is_filled = is_filled or there.f_bavail * there.f_frsize < LEFT_BYTES_MAX
            if passed > seconds / 2 and not is_halfway:
                is_halfway = True
                halfway()
            time.sleep(0.02)
    path.unlink()
    assert is_filled


def _take(file: int, size: int) -> None:
    block = bytes(size)
    while True:
        try:
            os.write(file, block)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return


def broker_pid(site: Site) -> int:
    """The broker's process among the children of `gridmsg up`."""
    parent = site.processes["up"].pid
    for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if b"\0broker\0run\0" in Path(f"/proc/{word}/cmdline").read_bytes():
            return int(word)
    pytest.fail(f"no broker runs\n{site.logs()}")


@pytest.mark.parametrize("is_killed", [False, True], ids=["full", "full-and-killed"])
def test_a_full_disk_loses_nothing(site: Site, disk: Path, is_killed: bool) -> None:
    """Eight senders at 600 records/s; the disk fills, the broker may be killed on top of it."""
    probes = [Probe(site.post, f"probe{n}", RECORDS_PER_S / SENDERS) for n in range(SENDERS)]
    for probe in probes:
        probe.start()
    time.sleep(2)
    broker = broker_pid(site)
    kill = partial(os.kill, broker, signal.SIGKILL)
    log = site.log_path("up")

    def is_noticed() -> bool:
        return NOTICED.search(log.read_text()) is not None

    fill(disk / "filler", FULL_S, kill if is_killed else lambda: None, is_noticed)
    is_free_at = time.monotonic()

    def is_served() -> bool:
        return min(probe.accepted_at for probe in probes) >= is_free_at + 2

    wait_until(is_served, "every probe served again", site)
    recovered_s = time.monotonic() - is_free_at
    for probe in probes:
        probe.is_stopped.set()
    for probe in probes:
        probe.join(2 * PATIENCE_SECONDS)
        assert not probe.is_alive(), site.logs()
    expected = {job for probe in probes for job in probe.accepted}
    answers = sum((probe.answers for probe in probes), Counter())
    stored = wait_until_stored(site, expected)
    missing = expected - set(stored)
    assert not missing, f"{len(missing)} of {len(expected)} lost, {answers}\n{site.logs()}"
    assert len(stored) == len(set(stored)), "stored twice"
    if not is_killed:
        assert broker_pid(site) == broker, f"the broker ended on the full disk\n{site.logs()}"
    print(f"{len(expected)} records, all there once; {dict(answers)}; {recovered_s:.1f} s after")
