"""The journal passes the store's suite on real files and on the simulated disk."""

from store.journal import Journal
from store.writer import SteppedWriter
from tests.suites.store_suite import StoreSuite
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, DeadHost
from tests.support.waiting import wait_until


class TestOnSimulatedDisk(StoreSuite):
    def make(self, tmp_path):
        writer = SteppedWriter()
        journal = Journal("/store", SMALL, SimulatedDisk(), writer=writer, host=DeadHost())

        def settle():
            writer.step()
            writer.run_jobs()

        return journal, settle


class TestOnRealFilesWithThreads(StoreSuite):
    def make(self, tmp_path):
        journal = Journal(str(tmp_path), SMALL)

        def settle():
            def is_durable():
                assert journal.failure is None
                return journal.durable >= journal._committed

            wait_until(is_durable, "the sync", pause_s=0.0005)

        return journal, settle
