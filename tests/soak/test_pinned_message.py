"""One message that is never acknowledged, and much that passes it by: the disk stays bounded, memory flat.

GRIDMSG_SOAK_GB says how much passes at least (0.3 by default), GRIDMSG_SOAK_SECONDS how long it goes on at least, at
full speed; GRIDMSG_SOAK_LOG names a file that gets a line a minute.  The bound on the disk, stated in docs/store.md:
living / compact share + compact-size + 4 checkpoint-size + 3 segment-size + reserve-size.
"""

import os
import threading
import time
from pathlib import Path

import pytest

from bench.broker_process import cpu_seconds, used_bytes
from bench.feeder import Feeder, encode_send
from tests.support.site import Site

GIGABYTES = float(os.environ.get("GRIDMSG_SOAK_GB", "0.3"))
SECONDS = float(os.environ.get("GRIDMSG_SOAK_SECONDS", "0"))
LOG = Path(os.environ.get("GRIDMSG_SOAK_LOG", os.devnull))
BODY_BYTES = 16_384
PART = 50
"""Messages that one receipt confirms, and acknowledgements in one write."""
AHEAD_MAX = 400
"""Messages that the publisher may be ahead of the consumer."""
MIB = 1 << 20
CONFIG = """
[store]
segment-size = "8MiB"
checkpoint-size = "8MiB"
compact-size = "32MiB"
reserve-size = "10MiB"
"""
LIVING_BYTES = (3 + AHEAD_MAX) * BODY_BYTES
DISK_BYTES_MAX = 2 * LIVING_BYTES + (32 + 4 * 8 + 3 * 8 + 10) * MIB


class Sampler(threading.Thread):
    """Looks at the broker's memory and disk five times a second, and notes a line a minute."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.folder = pid, folder
        self.rss, self.disk, self.minutes = [], [], []
        self.passed = 0
        self.is_stopped = threading.Event()

    def run(self):
        began = noted = time.monotonic()
        first, before, cpu = 0, 0, cpu_seconds(self.pid)
        while not self.is_stopped.wait(0.2):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            self.rss.append(next(int(x.split()[1]) << 10 for x in lines if x.startswith("VmRSS")))
            try:
                self.disk.append(used_bytes(self.folder))
            except FileNotFoundError:
                continue
            now = time.monotonic()
            if now - noted < 60:
                continue
            rss, disk = max(self.rss[first:]), max(self.disk[first:], default=0)
            self.minutes.append(rss)
            rate = (self.passed - before) / (now - noted)
            used = cpu_seconds(self.pid)
            with LOG.open("a") as log:
                log.write(
                    f"{(now - began) / 60:.0f} min: {self.passed * BODY_BYTES / 1e9:.2f} GB passed, {rate:.0f} msg/s, "
                    f"cpu {(used - cpu) / (now - noted):.2f}, memory {rss / MIB:.1f} MiB, disk {disk / MIB:.0f} MiB\n"
                )
            first, before, noted, cpu = min(len(self.rss), len(self.disk)), self.passed, now, used


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path / "site", CONFIG)
    made.start_broker()
    yield made
    made.close()


def publish(port, consumed, is_over):
    """Publish at full speed, as far ahead of the consumer as it may be, until it is over."""
    feeder = Feeder(port, 600)
    raw = encode_send("q", bytes(BODY_BYTES)) * (PART - 1)
    raw += encode_send("q", bytes(BODY_BYTES), "r")
    while not is_over.is_set():
        assert consumed.acquire(timeout=600), "the consumer stands still"
        feeder.send(raw)
        feeder.expect("RECEIPT")


@pytest.mark.slow
def test_a_pinned_message_does_not_grow_the_disk(site):
    port = site.port(61613)
    holder = Feeder(port)
    # One held by a consumer for ever, one that nobody wants; both older than all that passes.
    holder.publish(["q", "alone"], 2, b"old" + bytes(BODY_BYTES))
    holder.subscribe("q", 1)
    holder.expect("MESSAGE")
    process = site.processes["broker run"]
    sampler = Sampler(process.pid, site.data / "broker")
    sampler.start()

    consumed = threading.Semaphore(AHEAD_MAX // PART)
    is_over = threading.Event()
    publisher = threading.Thread(target=publish, args=(port, consumed, is_over), daemon=True)
    consumer = Feeder(port, 600)
    consumer.subscribe("q", 500)
    began = time.monotonic()
    publisher.start()
    while sampler.passed * BODY_BYTES < GIGABYTES * 1e9 or (time.monotonic() - began) < SECONDS:
        consumer.drain(PART)
        sampler.passed += PART
        consumed.release()
    seconds = time.monotonic() - began
    is_over.set()
    # The publisher may wait for a receipt with the queue full of what nobody takes: that is no matter, it is confirmed.
    publisher.join(60)
    assert not publisher.is_alive()
    time.sleep(1)
    sampler.is_stopped.set()
    sampler.join()
    half = len(sampler.rss) // 2
    first, second = max(sampler.rss[:half]), max(sampler.rss[half:])
    print(
        f"{sampler.passed * BODY_BYTES / 1e9:.2f} GB in {seconds:.0f} s: disk at most "
        f"{max(sampler.disk) / MIB:.0f} MiB (bound {DISK_BYTES_MAX / MIB:.0f}), "
        f"memory at most {first / MIB:.0f} MiB, then {second / MIB:.0f} MiB"
    )
    assert max(sampler.disk) <= DISK_BYTES_MAX
    assert second <= first * 1.1 + 8 * MIB
    # After a kill the old ones are there, and marked where they were handed out.
    site.kill("broker", "run")
    site.start_broker()
    again = Feeder(port)
    for queue, mark in (("q", "true"), ("alone", "false")):
        again.subscribe(queue, 1)
        headers, body = again.expect("MESSAGE")
        assert body.startswith(b"old") and headers.get("redelivered", "false") == mark
