"""A broker on a file system of 64 MiB that it fills: publishers wait, consumers drain, nothing is lost, all goes on by itself."""

import contextlib
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import click
import pytest

from bench.feeder import Feeder, encode_send
from tests.support.site import Site
from tests.support.waiting import PATIENCE_SECONDS, wait_until

DISK_MB = 64
BODY_BYTES = 4096
CONFIG = """
[store]
segment-size = "2MiB"
checkpoint-size = "2MiB"
reserve-size = "4MiB"
compact-size = "4MiB"
[broker]
disk-reserve = "8MiB"
"""

pytestmark = pytest.mark.crash


@pytest.fixture
def site(tmp_path: Path):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a file system of 64 MiB needs root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.strip()}")
    made = None
    try:
        made = Site(place / "site", CONFIG)
        made.start_broker()
        yield made
    finally:
        if made is not None:
            made.close()
        umount = ["umount", str(place)]
        wait_until(lambda: not subprocess.run(umount, check=False).returncode, "the umount")


class Publisher(threading.Thread):
    """Publishes with a receipt for every tenth message, and never gives up."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.feeder = Feeder(port, 3 * PATIENCE_SECONDS)
        self.confirmed = 0
        self.is_stopped = threading.Event()

    def run(self):
        with contextlib.suppress(OSError, click.ClickException):
            self.publish()

    def publish(self):
        while not self.is_stopped.is_set():
            for number in range(self.confirmed, self.confirmed + 10):
                receipt = "r" if number % 10 == 9 else ""
                self.feeder.send(encode_send("q", b"%d:" % number + bytes(BODY_BYTES), receipt))
            self.feeder.expect("RECEIPT")
            self.confirmed += 10

    def is_waiting(self, seconds):
        """Whether nothing is confirmed for so long."""
        before = self.confirmed
        time.sleep(seconds)
        return self.confirmed == before


def wait_until_blocked(site, publisher):
    """The broker says so, and no confirm comes any more: a slow disk alone is no block."""

    def is_blocked():
        return "low on disk" in site.run("status").stdout and publisher.is_waiting(1.5)

    wait_until(is_blocked, "the publisher blocked", site)


def test_a_full_disk_blocks_publishers_and_drains_by_itself(site):
    publisher = Publisher(site.port(61613))
    publisher.start()
    wait_until_blocked(site, publisher)
    filled = publisher.confirmed
    assert filled * BODY_BYTES > DISK_MB * 0.4 * (1 << 20), "much of the disk was used first"
    consumer = Feeder(site.port(61613), PATIENCE_SECONDS)
    consumer.subscribe("q", 100)
    taken = []
    # A third is taken while the publisher still waits or begins to go on; then both run.
    goal = 3 * filled
    while len(taken) < goal:
        headers, body = consumer.expect("MESSAGE")
        taken.append(int(body.split(b":")[0]))
        consumer.send(f"ACK\nid:{headers['ack']}\n\n\0".encode())
    assert publisher.confirmed > 2 * filled, "the publisher went on by itself"
    publisher.is_stopped.set()
    publisher.join(PATIENCE_SECONDS)
    assert not publisher.is_alive()
    while len(taken) < publisher.confirmed:
        headers, body = consumer.expect("MESSAGE")
        taken.append(int(body.split(b":")[0]))
        consumer.send(f"ACK\nid:{headers['ack']}\n\n\0".encode())
    assert taken[: publisher.confirmed] == list(range(publisher.confirmed)), "in order, once, all"
    consumer.send(b"DISCONNECT\nreceipt:bye\n\n\0")
    wait_until(lambda: "alarms     none" in site.run("status").stdout, "no alarm", site)
    assert site.stop("broker", "run") == 0
    assert site.run("store", "verify").stdout.endswith("intact\n")


def test_a_broker_killed_on_a_full_disk_starts_and_has_it_all(site):
    publisher = Publisher(site.port(61613))
    publisher.start()
    wait_until_blocked(site, publisher)
    confirmed = publisher.confirmed
    site.kill("broker", "run")
    site.start_broker()
    consumer = Feeder(site.port(61613), PATIENCE_SECONDS)
    consumer.subscribe("q", 100)
    for number in range(confirmed):
        headers, body = consumer.expect("MESSAGE")
        assert int(body.split(b":")[0]) == number
        consumer.send(f"ACK\nid:{headers['ack']}\n\n\0".encode())
    feeder = Feeder(site.port(61613), PATIENCE_SECONDS)
    feeder.publish(["other"], 1000, bytes(BODY_BYTES))
