"""What every `Store` must do: run on the memory store, the journal on real files, and on the simulated disk.

A subclass gives `make(tmp_path)`, which returns (store, settle): settle() returns once all that was
committed is durable.
"""

from __future__ import annotations

import pytest

from tests.support.store_drive import message, open_store, unit
from tests.support.waiting import wait_until


class StoreSuite:
    """The suite; mixed into test classes."""

    @pytest.fixture
    def opened(self, tmp_path):
        store, settle = self.make(tmp_path)
        recovered, box = open_store(store)
        yield store, settle, box, recovered
        store.close()

    def test_a_new_store_is_empty(self, opened):
        store, _, _, recovered = opened
        assert recovered.definitions == {} and recovered.lanes == {} and recovered.next_lane == 1
        assert recovered.epoch >= 1 and recovered.store_id
        assert store.read(1, 0, 10, 1000) == []
        assert store.durable == 0 and not store.is_blocked

    def test_commit_numbers_grow_by_one_and_empty_units_take_none(self, opened):
        store, settle, box, _ = opened
        assert store.commit(unit()) == 0
        assert store.commit(unit([(message(), 1, 0)])) == 1
        assert store.commit(unit()) == 1
        assert store.commit(unit([(message(), 1, 1)])) == 2
        settle()
        assert store.durable == 2
        # Told behind it, by a thread of the store's own where it has one.
        wait_until(lambda: box.durable and box.durable[-1] == 2, "the last commit told", pause_s=0)
        assert box.durable == sorted(set(box.durable))

    def test_reading_gives_every_field_back(self, opened):
        store, settle, _, _ = opened
        sent = message(b"\x00\xff" * 50, b"a:b\n", priority=9, published_at=1 << 41, expires_at=7)
        store.commit(unit([(sent, 3, 0)]))
        for _ in range(2):
            ((position, found, count),) = store.read(3, 0, 10, 1000)
            assert (position, count) == (0, 0)
            for field in ("exchange", "routing_key", "format", "header", "body", "is_persistent"):
                assert getattr(found, field) == getattr(sent, field)
            assert (found.priority, found.published_at, found.expires_at) == (9, 1 << 41, 7)
            settle()

    def test_read_sees_what_is_not_durable_yet(self, opened):
        store, settle, _, _ = opened
        kept = [message(b"%d" % i) for i in range(6)]
        store.commit(unit([(m, 1, i) for i, m in enumerate(kept[:3])]))
        settle()
        store.commit(unit([(m, 1, i + 3) for i, m in enumerate(kept[3:])], [(1, 1, kept[1])]))
        assert [row[0] for row in store.read(1, 0, 10, 10**6)] == [0, 2, 3, 4, 5]
        assert [row[1].body for row in store.read(1, 2, 3, 10**6)] == [b"2", b"3", b"4"]
        settle()
        assert [row[0] for row in store.read(1, 0, 10, 10**6)] == [0, 2, 3, 4, 5]

    def test_read_stops_at_both_limits(self, opened):
        store, settle, _, _ = opened
        store.commit(unit([(message(bytes(100), b""), 1, i) for i in range(20)]))
        settle()
        assert len(store.read(1, 0, 7, 10**6)) == 7
        assert len(store.read(1, 0, 20, 250)) == 3
        assert len(store.read(1, 19, 20, 10**6)) == 1
        assert store.read(1, 20, 20, 10**6) == []

    def test_a_message_in_several_lanes_leaves_them_one_by_one(self, opened):
        store, settle, _, _ = opened
        shared, own = message(b"shared"), message(b"own")
        store.commit(unit([(own, 1, 0), (shared, 1, 1), (shared, 2, 0), (shared, 5, 0)]))
        settle()
        store.commit(unit([], [(2, 0, shared)]))
        settle()
        assert [row[1].body for row in store.read(1, 0, 9, 999)] == [b"own", b"shared"]
        assert store.read(2, 0, 9, 999) == []
        assert [row[1].body for row in store.read(5, 0, 9, 999)] == [b"shared"]

    def test_interleaved_fan_out_keeps_the_order_of_positions(self, opened):
        store, settle, _, _ = opened
        rows = []
        for i in range(10):
            sent = message(b"%d" % i)
            rows.append((sent, 1, i))
            if i % 3 == 0:
                rows.append((sent, 2, i // 3))
        store.commit(unit(rows))
        settle()
        assert [row[0] for row in store.read(1, 0, 99, 10**6)] == list(range(10))
        assert [row[1].body for row in store.read(1, 4, 3, 10**6)] == [b"4", b"5", b"6"]
        assert [row[1].body for row in store.read(2, 0, 99, 10**6)] == [b"0", b"3", b"6", b"9"]

    def test_published_and_acknowledged_together_is_gone_and_durable(self, opened):
        store, settle, _, _ = opened
        a, b = message(b"a"), message(b"b")
        commit = store.commit(unit([(a, 1, 0), (b, 1, 1)], [(1, 0, a)]))
        settle()
        assert store.durable == commit
        assert [row[0] for row in store.read(1, 0, 9, 999)] == [1]
        commit = store.commit(unit([(a, 1, 2)], [(1, 2, a)]))
        settle()
        assert store.durable == commit
        assert [row[0] for row in store.read(1, 0, 9, 999)] == [1]

    def test_purge_spares_what_is_kept_and_what_is_above(self, opened):
        store, settle, _, _ = opened
        kept = [message(bytes(50 + i)) for i in range(30)]
        for start in (0, 10, 20):
            store.commit(unit([(kept[i], 1, i) for i in range(start, start + 10)]))
            settle()
        purge = unit()
        purge.purge(1, 25, [3, 17])
        store.commit(purge)
        expected = [3, 17, 25, 26, 27, 28, 29]
        assert [row[0] for row in store.read(1, 0, 99, 10**6)] == expected
        settle()
        assert [row[0] for row in store.read(1, 0, 99, 10**6)] == expected
        assert store.stat()["messages"] == 7
        assert store.stat()["message_bytes"] == sum(56 + i for i in expected)

    def test_dropping_a_lane_forgets_it(self, opened):
        store, settle, _, _ = opened
        made = unit([(message(), 4, 0), (message(), 5, 0)])
        made.drop_lane(4)
        store.commit(made)
        assert store.read(4, 0, 9, 999) == []
        settle()
        assert store.read(4, 0, 9, 999) == []
        assert len(store.read(5, 0, 9, 999)) == 1

    def test_requeue_counts_come_back_with_the_message(self, opened):
        store, settle, _, _ = opened
        sent = message()
        store.commit(unit([(sent, 1, 0), (sent, 1, 1)]))
        made = unit()
        made.requeue(1, 1, 3)
        store.commit(made)
        assert [(row[0], row[2]) for row in store.read(1, 0, 9, 999)] == [(0, 0), (1, 3)]
        settle()
        assert [(row[0], row[2]) for row in store.read(1, 0, 9, 999)] == [(0, 0), (1, 3)]

    def test_acknowledging_twice_or_the_unknown_changes_nothing(self, opened):
        store, settle, _, _ = opened
        a, b = message(b"a"), message(b"b")
        store.commit(unit([(a, 1, 0), (b, 1, 1)]))
        settle()
        for _ in range(2):
            store.commit(unit([], [(1, 0, a), (1, 0, a), (9, 4, a)]))
            settle()
        assert [row[0] for row in store.read(1, 0, 9, 999)] == [1]
        assert store.stat()["messages"] == 1
