"""Kill -9 of a real process that writes to a real store: every confirmed unit is there afterwards, whole.

GRIDMSG_KILL_ROUNDS sets the number of rounds (3 by default).
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from store.inspect import verify
from store.journal import Journal
from tests.support.store_drive import open_store

LINES_MIN = 25
ROUNDS = int(os.environ.get("GRIDMSG_KILL_ROUNDS", "3"))
ROOT = Path(__file__).resolve().parents[2]

# Publishes units of five messages to two lanes, acknowledges the older half, and prints what is durable.
CHILD = """
import sys, threading
from store.journal import Journal
from store.settings import StoreSettings
from tests.support.store_drive import message, unit

settings = StoreSettings(segment_bytes=1 << 20, first_segment_bytes=1 << 18, checkpoint_bytes=1 << 18,
                         checkpoint_records=300, free_bytes_min=0, free_bytes_resume=0, reserve_bytes=1 << 16)
journal = Journal(sys.argv[1], settings)
units = {}
gate = threading.Condition()

def on_durable(commit):
    with gate:
        print(commit, *units[commit], flush=True)
        gate.notify()

def on_failed(error):
    print("FAILED", error, flush=True)

recovered = journal.open(lambda call: call(), on_durable, on_failed, lambda is_blocked: None)
state = recovered.lanes.get(1)
next = state.next if state else 0
oldest = state.first if state else 0
waiting = {}
while True:
    made = unit()
    for position in range(next, next + 5):
        sent = message(b"%d" % position * 50, b"%d" % position)
        waiting[position] = sent
        made.published += [(sent, 1, position), (sent, 2, position)]
    next += 5
    while len(waiting) > 40:
        position = min(waiting)
        made.acknowledged.append((1, position, waiting.pop(position)))
        oldest = position + 1
    units[journal._committed + 1] = (next, oldest)
    with gate:
        commit = journal.commit(made)
        while commit - journal.durable > 20:
            gate.wait(1)
"""


def run_and_kill(folder, seconds):
    """Lines of (commit, next, oldest) that the child printed before it was killed, so long after its first ones."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    # However long it took to start: on a busy machine that may be seconds.
    first = b"".join(child.stdout.readline() for _ in range(LINES_MIN))
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    text = (first + child.stdout.read()).decode()
    child.wait()
    assert "FAILED" not in text
    lines = text.splitlines(keepends=True)
    return [tuple(map(int, line.split())) for line in lines if line.endswith("\n")]


def test_every_confirmed_unit_survives_kill_9(tmp_path):
    generator = random.Random(4711)
    folder = tmp_path / "store"
    confirmed_next = total = round_first = 0
    for _ in range(ROUNDS):
        told = run_and_kill(folder, generator.random())
        total += len(told)
        confirmed_next = max([confirmed_next, *(row[1] for row in told)])
        gone = max((row[2] for row in told), default=0)
        journal = Journal(str(folder))
        recovered, _ = open_store(journal)
        found = {lane: {} for lane in (1, 2)}
        for lane, rows in found.items():
            first = 0
            while part := journal.read(lane, first, 500, 1 << 20):
                rows.update((p, m.body) for p, m, _ in part)
                first = part[-1][0] + 1
        end = recovered.lanes[2].next
        assert end >= confirmed_next and end % 5 == 0, "a unit is there wholly or not at all"
        assert sorted(found[2]) == list(range(end))
        assert all(body == b"%d" % p * 50 for p, body in found[2].items())
        # What this round acknowledged for good stays away; the rest of it is all there.
        back = [p for p in found[1] if round_first <= p < gone]
        assert not back, "what was acknowledged and durable came back"
        assert set(range(max(round_first, end - 40), end)) <= set(found[1])
        round_first = end
        journal.close()
        assert verify(str(folder)).damage == []
    assert total >= LINES_MIN * ROUNDS
