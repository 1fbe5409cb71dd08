"""Seeded histories of a journal on the simulated disk: power losses, kills, failing and hanging calls, several to a history.

Each hits some call (of an opening, of recovery, of work, of a checkpoint, of a compaction); after each the store must be one of
the model's commits, and none that was durable is missing.  GRIDMSG_CRASH_SEEDS="first:count" sets the seeds, and the tally is
printed; a failure names its seed, and `run_history(seed, Counter())` replays it.  A hundred thousand crashes:
`GRIDMSG_CRASH_SEEDS=0:23000 pytest -s tests/sim/test_store_crashes.py`.
"""

from __future__ import annotations

import errno
import logging
import os
import random
from collections import Counter

import pytest

from store.errors import StoreError
from tests.support.disk import Crashed, SimulatedDisk
from tests.support.store_drive import SMALL, Stepped
from tests.support.store_work import COMPACTING, Work, check_content, find_commit, work_on

FIRST, COUNT = map(int, os.environ.get("GRIDMSG_CRASH_SEEDS", "0:60").split(":"))
TELL_EVERY = 1000


class Fault:
    """What goes wrong, once, at the n-th call from now: the power goes, or the call fails or hangs."""

    def __init__(self, dice, disk, work):
        self.dice, self.disk, self.work = dice, disk, work
        self.kind = dice.choices(["crash", "fail", "hang"], [6, 2, 2])[0]
        self.at = disk.call_count + dice.randrange(1, dice.choice([80, 400]))
        self.code = dice.choice([errno.EIO, errno.EIO, errno.ENOSPC])
        self.is_end = dice.random() < 0.5
        self.stepped = None
        self.struck = ""

    def arm(self):
        self.disk.before_call = self

    def disarm(self):
        self.disk.before_call = None

    def __call__(self, name, count):
        if self.struck or count < self.at:
            return
        self.struck = name
        if self.kind == "fail":
            raise OSError(self.code, os.strerror(self.code))
        if self.kind == "hang":
            self.wait()
            if not self.is_end:
                return
            # The watchdog ends the process; what the call asked for may still come to pass.
        self.disk.is_dead = True
        raise Crashed

    def wait(self):
        """What the reactor does while the writer's call does not return: it goes on, and nobody is told anything."""
        if self.stepped is None or self.work.is_reading:
            return
        journal, told = self.stepped.journal, list(self.stepped.box.durable)
        for _ in range(self.dice.randrange(1, 4)):
            journal.commit(self.work.unit())
        if not journal._lock._is_owned():
            check_content(journal, self.work)
        assert self.stepped.box.durable == told, "nothing is durable before the call returned"


def live(disk, work, base, fault, limits):
    """One process, from its opening to its fault or its end; gives the commits known to be durable."""
    stepped = None
    fault.arm()
    try:
        stepped = Stepped(disk, settings=limits)
        fault.disarm()
        base = find_commit(work, stepped, base)
        work.adopt(base, stepped.recovered)
        fault.stepped = stepped
        fault.arm()
        work_on(stepped, work, 60, disk.random)
        stepped.settle()
    except (Crashed, StoreError, OSError) as error:
        assert disk.is_dead or fault.struck, repr(error)  # noqa: PT017 -- each is a way out
    work.is_reading = False
    if stepped is None:
        return base
    told = stepped.box.durable
    assert told == sorted(set(told))
    if stepped.journal.failure is not None and not disk.is_dead:
        before = list(told)
        for _ in range(3):
            stepped.journal.commit(work.unit())
            stepped.settle()
        assert told == before, "after a failure nothing becomes durable"
    return base + (told[-1] if told else 0)


def run_history(seed, tally):
    dice = random.Random(seed)  # noqa: S311
    disk = SimulatedDisk(dice.getrandbits(40))
    limits = dice.choice([SMALL, COMPACTING])
    work, base = Work(disk.random), 0
    for _ in range(dice.randrange(2, 9)):
        fault = Fault(dice, disk, work)
        base = live(disk, work, base, fault, limits)
        tally[f"{fault.kind} {fault.struck}" if fault.struck else "at rest"] += 1
        if dice.random() < 0.6:
            disk.crash()
        else:
            disk.kill()
    stepped = Stepped(disk, settings=limits)
    work.adopt(find_commit(work, stepped, base), stepped.recovered)
    stepped.journal.close()
    again = Stepped(disk, settings=limits)
    assert find_commit(work, again, len(work.history) - 1) == len(work.history) - 1


def test_through_crashes_failures_and_hangs_the_store_is_what_was_committed():
    tally = Counter()
    logging.disable(logging.CRITICAL)
    try:
        for seed in range(FIRST, FIRST + COUNT):
            try:
                run_history(seed, tally)
            except BaseException as error:
                pytest.fail(f"seed {seed}: {error!r}")
            if seed % TELL_EVERY == TELL_EVERY - 1:
                print(f"seed {seed}: {told(tally)}", flush=True)
    finally:
        logging.disable(logging.NOTSET)
    print(f"seeds {FIRST} to {FIRST + COUNT - 1}: {told(tally)}")
    assert sum(tally.values()) - tally["at rest"] > COUNT


def told(tally):
    struck = sum(tally.values()) - tally["at rest"]
    return f"{struck} at a call, {tally['at rest']} at rest; {dict(sorted(tally.items()))}"
