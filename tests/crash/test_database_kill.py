"""A database agent killed with kill -9 in the middle of its commits: what it acknowledged is in the store, once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from agents.recordstore.interface import Kind, Selection
from agents.recordstore.sqlite import SqliteRecordStore

pytestmark = pytest.mark.crash

ROOT = Path(__file__).resolve().parents[2]
DAY = date(2026, 3, 14)
ROUNDS = 6
LINES_MIN = 60

# Feeds an agent as a broker would: everything unacknowledged comes again; writes each acknowledgment to stdout.
FEEDER = """
import json, os, pathlib, sys, threading
from datetime import date
from agents.config import DatabaseSettings
from agents.database import DatabaseAgent
from agents.summaries.messages import day_messages
from agents.transport import Incoming

folder, first, done = pathlib.Path(sys.argv[1]), int(sys.argv[2]), set(sys.argv[3].split(","))

class Feeder:
    def start(self): pass
    def stop(self): pass
    def subscribe(self, destination, prefetch, on_message): self.take = getattr(self, "take", {}); self.take[destination] = on_message
    def acknowledge(self, messages):
        os.write(1, "".join(m.headers["n"] + "\\n" for m in messages).encode())
    def reject(self, message, cause, requeue): os.write(1, f"rejected {cause}\\n".encode())

feeder = Feeder()
agent = DatabaseAgent(DatabaseSettings(batch_records=20, batch_wait_seconds=0.0), folder, feeder)
agent.start()
day = date(2026, 3, 14)
os.write(1, b"ready\\n")
for n in range(first, first + 3000):
    body = json.dumps({"EndTime": "2026-03-14T01:00:00Z", "WallDuration": n, "LocalJobId": str(n)}).encode()
    feeder.take["/grace.site.raw"](Incoming(body, {"n": f"raw{n}"}, "/q"))
    if n % 20 == 0:
        generation = n // 20 + 1
        rows = [json.dumps({"EndTime": "2026-03-14T00:00:00.000Z", "VOName": f"vo{i}", "Count": generation}).encode() for i in range(7)]
        for m in day_messages(day, generation, rows):
            name = "sum%d.%s" % (generation, m.headers["gridmsg-summary-row"])
            feeder.take["/grace.site.summary"](Incoming(m.body, {**m.headers, "n": name}, "/q"))
threading.Event().wait()
"""


def test_killed_in_the_middle_of_commits(tmp_path):
    acknowledged: set[str] = set()
    chance = random.Random(7)
    first = 0
    for _ in range(ROUNDS):
        with subprocess.Popen(
            [sys.executable, "-c", FEEDER, str(tmp_path), str(first), ""],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            # However slow the machine is: some of it was acknowledged before.
            first_lines = b"".join(process.stdout.readline() for _ in range(LINES_MIN))
            time.sleep(chance.uniform(0.0, 0.6))
            os.kill(process.pid, signal.SIGKILL)
            lines = (first_lines + process.stdout.read()).decode().split("\n")[:-1]
        assert not [line for line in lines if line.startswith("rejected")]
        acknowledged |= set(lines)
        first += chance.randrange(0, 1500)
        check(tmp_path, acknowledged)
    raw_count = sum(name.startswith("raw") for name in acknowledged)
    print(
        f"{raw_count} raw and {len(acknowledged) - raw_count} summary messages acknowledged in {ROUNDS} rounds"
    )
    assert raw_count > 100


def check(folder: Path, acknowledged: set[str]) -> None:
    store = SqliteRecordStore(folder / "records.sqlite")
    try:
        jobs = [record.document["LocalJobId"] for record in store.scan(Selection())]
        assert len(jobs) == len(set(jobs))
        assert {name[3:] for name in acknowledged if name.startswith("raw")} <= set(jobs)
        # The day is one generation, whole: never half of two.
        generation = store.day_generation(DAY)
        rows = [record.document["Count"] for record in store.scan(Selection(Kind.SUMMARY))]
        assert rows == ([] if generation is None else [generation] * 7)
        whole = [
            g
            for g in {int(n[3:].split(".")[0]) for n in acknowledged if n.startswith("sum")}
            if all(f"sum{g}.{i}" in acknowledged for i in range(7))
        ]
        # All rows of a generation acknowledged: it, or a newer one, is in the store.
        assert not whole or (generation or 0) >= max(whole)
    finally:
        store.close()
