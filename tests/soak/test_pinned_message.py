"""One message that is never acknowledged, and much that passes it by: the disk stays bounded, memory flat.

GRIDMSG_SOAK_GB says how much passes (0.3 by default).  The bound on the disk, stated in docs/store.md:
living / compact share + compact-size + 4 checkpoint-size + 3 segment-size + reserve-size.
"""

import os
import threading
import time
from pathlib import Path

import pytest

from bench.broker_process import used_bytes
from bench.feeder import Feeder, encode_send
from tests.support.site import Site

GIGABYTES = float(os.environ.get("GRIDMSG_SOAK_GB", "0.3"))
BODY_BYTES = 16_384
MIB = 1 << 20
COUNT = int(GIGABYTES * 1e9 / BODY_BYTES)
CONFIG = """
[store]
segment-size = "8MiB"
checkpoint-size = "8MiB"
compact-size = "32MiB"
reserve-size = "10MiB"
"""
LIVING_BYTES = 3 * BODY_BYTES
DISK_BYTES_MAX = 2 * LIVING_BYTES + (32 + 4 * 8 + 3 * 8 + 10) * MIB


class Sampler(threading.Thread):
    """Looks at the broker's memory and disk five times a second."""

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.folder = pid, folder
        self.rss, self.disk = [], []
        self.is_stopped = threading.Event()

    def run(self):
        while not self.is_stopped.wait(0.2):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            self.rss.append(next(int(x.split()[1]) << 10 for x in lines if x.startswith("VmRSS")))
            try:
                self.disk.append(used_bytes(self.folder))
            except FileNotFoundError:
                continue


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path / "site", CONFIG)
    made.start_broker()
    yield made
    made.close()


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

    def publish():
        feeder = Feeder(port, 600)
        for start in range(0, COUNT, 50):
            count = min(50, COUNT - start)
            feeder.send(encode_send("q", bytes(BODY_BYTES)) * (count - 1))
            feeder.send(encode_send("q", bytes(BODY_BYTES), "r"))
            feeder.expect("RECEIPT")

    publisher = threading.Thread(target=publish, daemon=True)
    consumer = Feeder(port, 600)
    consumer.subscribe("q", 500)
    began = time.monotonic()
    publisher.start()
    for _ in range(COUNT):
        headers, _ = consumer.expect("MESSAGE")
        consumer.send(f"ACK\nid:{headers['ack']}\n\n\0".encode())
    seconds = time.monotonic() - began
    publisher.join(60)
    time.sleep(1)
    sampler.is_stopped.set()
    sampler.join()
    half = len(sampler.rss) // 2
    first, second = max(sampler.rss[:half]), max(sampler.rss[half:])
    print(
        f"{COUNT * BODY_BYTES / 1e9:.2f} GB in {seconds:.0f} s: disk at most {max(sampler.disk) / MIB:.0f} MiB "
        f"(bound {DISK_BYTES_MAX / MIB:.0f}), memory at most {first / MIB:.0f} MiB, then {second / MIB:.0f} MiB"
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
