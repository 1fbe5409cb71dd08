"""After an opening the checkpoint that is due waits until the start is over, but not while the debt presses."""

import dataclasses

from store.journal import Journal
from store.writer import SteppedWriter
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, DeadHost, message, open_store, unit

CALM = dataclasses.replace(SMALL, calm_seconds=2.0, checkpoint_records=20, checkpoint_bytes=1 << 30)


class Calm:
    """A journal with its clock in the test's hand."""

    def __init__(self, disk):
        self.now = 100.0
        self.writer = SteppedWriter()
        self.journal = Journal(
            "/store", CALM, disk, writer=self.writer, host=DeadHost(), clock=lambda: self.now
        )
        self.recovered, _ = open_store(self.journal)
        self.next = self.recovered.lanes[1].next if self.recovered.lanes else 0
        self.writer.run_jobs()

    def publish(self, count):
        """So many chunks, each of which counts half a record."""
        for _ in range(count):
            self.journal.commit(unit([(message(b"x"), 1, self.next)]))
            self.next += 1
            self.writer.step()

    @property
    def checkpoints(self):
        return self.journal._upkeep._keeper._number


def test_a_checkpoint_that_is_due_waits_for_the_start_to_be_over():
    made = Calm(SimulatedDisk(1))
    before = made.checkpoints
    made.publish(22)
    made.writer.run_jobs()
    assert made.journal._pressure.is_checkpoint_due and made.checkpoints == before
    assert made.journal._upkeep.wait_seconds == 2.0, "the writer asks to be called again"
    made.now += 2.1
    made.writer.step()
    made.writer.run_jobs()
    assert made.checkpoints == before + 1


def test_it_does_not_wait_while_publishers_would():
    made = Calm(SimulatedDisk(1))
    before = made.checkpoints
    made.publish(31)
    made.writer.run_jobs()
    assert made.checkpoints == before + 1


def test_killed_again_and_again_within_the_calm_the_debt_is_bounded():
    disk = SimulatedDisk(1)
    counts = []
    for _ in range(12):
        made = Calm(disk)
        made.publish(1)
        made.writer.run_jobs()
        counts.append(made.journal._pressure.debt_epochs)
        disk.crash()
    assert max(counts) <= 6 and 0 in counts
