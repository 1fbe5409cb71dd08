"""The memory store passes the store's suite: it is a fake to be relied upon."""

from store.memory import MemoryStore
from tests.suites.store_suite import StoreSuite


class TestMemoryStore(StoreSuite):
    def make(self, tmp_path):
        return MemoryStore(), lambda: None
