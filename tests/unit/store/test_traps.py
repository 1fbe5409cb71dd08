"""The known traps of the store's design, one scenario each: it passes with the rule against the trap, and fails without it.

`TRAPS` names for each trap the scenario and how its rule is switched off (a patch of the one place that holds it).
Trap 2's last gap (the very last batch damaged at rest) is the lease's: tests/unit/store/test_lease_traps.py.
"""

import dataclasses

import pytest

import broker.core.expiry as core_expiry
import store.checkpoint
import store.reader
import store.tail
from broker.core.broker import Broker
from broker.core.message import Message
from broker.wire.properties import AMQP
from store.errors import Corrupt, Full
from store.index import Lane, State
from store.inspect import dump
from store.keeper import Keeper
from store.layout import Layout
from store.memory import MemoryStore
from store.positions import PositionSet
from store.record import ACKNOWLEDGE, DROP_LANE, HORIZON, encode_value
from store.segment import Segment, sidecar_name
from tests.support.disk import Crashed, SimulatedDisk
from tests.support.store_drive import SMALL, Stepped, message, unit

SALTS = {"is_constant": False}


def stepped_on(disk, settings=SMALL):
    stepped = Stepped(disk, settings=settings, salt=0 if SALTS["is_constant"] else None)
    return stepped


def publish(stepped, lane, positions, size=200):
    sent = {position: message(bytes(size), b"%d" % position) for position in positions}
    stepped.journal.commit(unit([(m, lane, p) for p, m in sent.items()]))
    stepped.settle()
    return sent


def acknowledge(stepped, lane, sent):
    stepped.journal.commit(unit([], [(lane, p, m) for p, m in sent.items()]))
    stepped.settle()


def checkpoint(stepped):
    stepped.journal._checkpoint_aside()
    stepped.writer.run_jobs()


def positions(journal, lane, first=0):
    return [row[0] for row in journal.read(lane, first, 10**6, 10**9)]


def checkpoints(disk):
    return [p for p in disk.paths() if p.startswith("/store/checkpoints/") and "tmp" not in p]


def trap_1_newest_checkpoint_damaged_after_segments_were_unlinked():
    for rounds in range(20, 32):
        disk = SimulatedDisk(1)
        stepped = stepped_on(disk)
        for start in range(0, 10 * rounds, 10):
            acknowledge(stepped, 1, publish(stepped, 1, range(start, start + 10)))
        kept = list(publish(stepped, 1, [10 * rounds, 10 * rounds + 1]))
        checkpoint(stepped)
        assert len([p for p in disk.paths() if p.endswith(".seg")]) < 5, "some were unlinked"
        disk.flip(checkpoints(disk)[-1], 60)
        disk.crash()
        again = stepped_on(disk)
        assert again.recovered.lanes[1].count == 2
        assert positions(again.journal, 1) == kept


def unlink_by_the_newest_checkpoint_alone(patch):
    def dead(self, capture):
        return [
            i for i, (n, _) in capture.segments.items() if n == 0 and i != capture.place.segment
        ]

    patch.setattr(Keeper, "_dead", dead)


def trap_2_damaged_batch_looks_like_a_torn_tail():
    disk = SimulatedDisk(1)
    stepped = stepped_on(disk)
    for position in range(4):
        publish(stepped, 1, [position])
    batch = list(dump("/store", disk))[2]
    disk.crash()
    disk.flip(f"/store/segments/{batch['segment']}", batch["offset"] + 5)
    with pytest.raises(Corrupt, match="damaged"):
        stepped_on(disk)


def never_look_behind_a_bad_batch(patch):
    patch.setattr(Segment, "find_batch", lambda self, offset, number_min: None)


def trap_3_body_that_is_a_copy_of_a_journal():
    other = SimulatedDisk(5)
    elsewhere = stepped_on(other)
    for position in range(12):
        publish(elsewhere, 1, [position], size=1)
    later = list(dump("/store", other))[-1]
    copied = other.content(f"/store/segments/{later['segment']}")
    copied = copied[later["offset"] : later["offset"] + later["bytes"]]
    pad = 0
    for _ in range(2):
        # The second time the copy lies where a batch might: at a multiple of 64.
        disk = SimulatedDisk(1)
        stepped = stepped_on(disk)
        publish(stepped, 1, range(3))
        stepped.journal.commit(unit([(message(b"x" * pad + copied), 2, 0)]))
        stepped.step()
        last = list(dump("/store", disk))[-1]
        path = f"/store/segments/{last['segment']}"
        pad += -disk.content(path).index(copied) % 64
        disk.crash()
        disk.flip(path, last["offset"] + 8)
        again = stepped_on(disk)
        assert positions(again.journal, 1) == [0, 1, 2] and positions(again.journal, 2) == []


def one_salt_for_all(patch):
    patch.setitem(SALTS, "is_constant", True)


def trap_4_names_without_a_folder_sync():
    for seed in range(12):
        disk = SimulatedDisk(seed)
        stepped = stepped_on(disk)
        publish(stepped, 1, range(5))
        checkpoint(stepped)
        for start in range(5, 200, 20):
            publish(stepped, 1, range(start, start + 20))
        disk.crash()
        assert positions(stepped_on(disk).journal, 1) == list(range(205))


def never_sync_folders(patch):
    patch.setattr(SimulatedDisk, "sync_folder", lambda self, path: None)


def trap_5_sidecar_written_but_not_its_checkpoint():
    disk = SimulatedDisk(1)
    stepped = stepped_on(disk)
    publish(stepped, 1, range(8))
    checkpoint(stepped)
    publish(stepped, 1, range(8, 16))

    def refuse(name, count):
        if name == "rename":
            raise OSError(5, "EIO")

    disk.before_call = refuse
    checkpoint(stepped)
    assert stepped.box.failed
    disk.crash()
    again = stepped_on(disk)
    publish(again, 1, range(16, 20))
    checkpoint(again)
    disk.crash()
    assert positions(stepped_on(disk).journal, 1) == list(range(20))


def one_sidecar_for_all_epochs(patch):
    for module in (store.checkpoint, store.reader):
        patch.setattr(module, "sidecar_name", lambda segment, epoch: sidecar_name(segment, 0))


COMPACTING = dataclasses.replace(SMALL, compact_share=0.9, compact_bytes_min=1)


def trap_6_crash_halfway_through_a_compaction():
    for crash_after in range(1, 130, 3):
        disk = SimulatedDisk(crash_after)
        stepped = stepped_on(disk, COMPACTING)
        sent = publish(stepped, 1, range(250))
        dead = {p: m for p, m in sent.items() if p % 3}
        disk.crash_at = disk.call_count + crash_after
        try:
            acknowledge(stepped, 1, dead)
            for _ in range(4):
                checkpoint(stepped)
                stepped.settle()
        except Crashed:
            pass
        is_durable = 2 in stepped.box.durable
        disk.crash()
        again = stepped_on(disk, COMPACTING)
        for _ in range(8):
            found = positions(again.journal, 1)
            assert found in (
                [p for p in sent if p not in dead],
                *(() if is_durable else (list(sent),)),
            )
            again.settle()


def leave_what_was_moved_where_it_was_too(patch):
    def move(self, index, extents, last, count, size_bytes):
        runs = self.runs
        runs.insert(index, extents[0][2], runs.run(index)[1], last, count, size_bytes)
        self.count += count
        self.bytes += size_bytes
        self.extents += extents
        self.extents.sort()

    patch.setattr(Lane, "move", move)


def trap_7_queue_deleted_and_declared_again():
    disk = SimulatedDisk(1)
    stepped = stepped_on(disk)
    old = publish(stepped, 7, range(10))
    checkpoint(stepped)
    made = unit()
    made.drop_lane(7)
    stepped.journal.commit(made)
    stepped.settle()
    stepped.journal.close()
    again = stepped_on(disk)
    assert 7 not in again.recovered.lanes
    lane = again.recovered.next_lane
    publish(again, lane, [0, 1])
    # A consumer of the old queue acknowledges late.
    acknowledge(again, 7, {0: old[0]})
    assert positions(again.journal, lane) == [0, 1]


def use_the_numbers_of_lanes_again(patch):
    thaw = State.thaw.__func__

    def forgetful(cls, *frozen):
        state = thaw(cls, *frozen)
        state.next_lane = max(state.packed, default=6) + 1
        return state

    patch.setattr(State, "thaw", classmethod(forgetful))


def leave_dropped_lanes(patch):
    apply = State.apply
    patch.setattr(
        State, "apply", lambda self, r, s, o: None if r[0] == DROP_LANE else apply(self, r, s, o)
    )


def trap_8_positions_that_transient_messages_had():
    disk = SimulatedDisk(1)
    stepped = stepped_on(disk)
    publish(stepped, 1, [5])
    made = unit([(message(), 1, 1_000_000)])
    made.horizon(1, 1_000_500)
    stepped.journal.commit(made)
    stepped.settle()
    disk.crash()
    for _ in range(2):
        again = stepped_on(disk)
        state = again.recovered.lanes[1]
        assert (state.first, state.next, state.count) == (5, 1_000_001, 2)
        assert state.horizon == 1_000_500
        assert positions(again.journal, 1) == [5, 1_000_000]
        again.journal.close()


def forget_horizons(patch):
    apply = State.apply
    patch.setattr(
        State, "apply", lambda self, r, s, o: None if r[0] == HORIZON else apply(self, r, s, o)
    )


def trap_9_every_second_of_many_acknowledged():
    disk = SimulatedDisk(1)
    big = dataclasses.replace(
        SMALL, segment_bytes=1 << 20, checkpoint_records=10**6, checkpoint_bytes=1 << 30
    )
    stepped = stepped_on(disk, big)
    sent = publish(stepped, 1, range(40_000), size=1)
    acknowledge(stepped, 1, {p: m for p, m in sent.items() if p % 2})
    checkpoint(stepped)
    assert len(stepped.journal._state.packed[1]) < 40_000 / 8 + 600
    disk.crash()
    assert stepped_on(disk, big).recovered.lanes[1].count == 20_000


def keep_dead_positions_as_numbers(patch):
    def freeze(self):
        return [[p, 0, b"\1"] for p in range(40_000) if p in self]

    patch.setattr(PositionSet, "freeze", freeze)


def trap_10_purge_of_many():
    disk = SimulatedDisk(1)
    stepped = stepped_on(disk)
    for start in range(0, 400, 20):
        publish(stepped, 1, range(start, start + 20))
    made = unit()
    made.purge(1, 400, [])
    stepped.journal.commit(made)
    stepped.step()
    (record,) = list(dump("/store", disk))[-1]["records"]
    assert record[0] == "purge" and len(encode_value(record)) < 200
    for _ in range(3):
        checkpoint(stepped)
    assert len([p for p in disk.paths() if p.endswith(".seg")]) <= 3
    assert stepped.journal.stat()["messages"] == 0


def purge_message_by_message(patch):
    def one_by_one(state, change, size_of):
        lane = state.lane(change[1])
        ranges = [n for p in range(change[2]) if lane.is_alive(p) for n in (p, 1)]
        return (ACKNOWLEDGE, change[1], ranges, [])

    patch.setattr(store.tail, "change_record", one_by_one)


def trap_11_exact_bytes_without_reading_what_went():
    disk = SimulatedDisk(1)
    stepped = stepped_on(disk)
    sent = {}
    for position in range(20):
        sent |= publish(stepped, 1, [position], size=10 * position)
    acknowledge(stepped, 1, {p: m for p, m in sent.items() if p % 4 == 0})
    made = unit()
    made.purge(1, 9, [7])
    stepped.journal.commit(made)
    stepped.settle()
    left = [m for p, m in sent.items() if p % 4 and (p >= 9 or p == 7)]
    disk.crash()
    reads = disk.calls.count("read")
    state = stepped_on(disk).recovered.lanes[1]
    assert state.bytes == sum(len(m.body) + len(m.header) for m in left)
    assert state.count == len(left)
    assert disk.calls.count("read") - reads < 200


def acknowledge_without_sizes(patch):
    subtract = State._subtract
    patch.setattr(
        State,
        "_subtract",
        lambda self, lane, index, gone: subtract(self, lane, index, [*gone[:2], 0]),
    )


class Clock:
    def __init__(self):
        self.ms = 1_000_000

    def now(self):
        return self.ms / 1000

    def wall_ms(self):
        return self.ms


def trap_12_many_expire_at_once():
    kept = MemoryStore()
    kept.open(lambda call: call(), lambda c: None, lambda e: None, lambda b: None)
    clock = Clock()
    broker = Broker(kept, clock, lambda: "x")
    vhost = broker.vhosts["/"]
    vhost.declare_queue("dead", durable=True)
    arguments = {
        "x-message-ttl": 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
    }
    vhost.declare_queue("q", durable=True, arguments=arguments)
    for _ in range(3000):
        vhost.publish(
            Message(vhost.destination("", "q"), AMQP, b"\0\0", b"b", True, 0, clock.ms, 0)
        )
    kept.commit(broker.take_unit())
    clock.ms += 2000
    left = vhost.queues["q"].depth
    while left:
        clock.ms += 200
        broker.tick()
        broker.dispatch()
        made = broker.take_unit()
        assert 0 < len(made.acknowledged) <= 1000, "a batch of bounded size"
        kept.commit(made)
        left -= len(made.acknowledged)
    assert vhost.queues["dead"].depth == 3000


def expire_all_in_one_turn(patch):
    patch.setattr(core_expiry, "EXPIRE_MAX", 10**6)


def trap_13_out_of_space_while_recovering():
    disk = SimulatedDisk(3, capacity_bytes=400 * 1024)
    settings = dataclasses.replace(SMALL, reserve_bytes=40 * 1024)
    stepped = stepped_on(disk, settings)
    publish(stepped, 1, [0])
    disk.crash()
    disk.capacity_bytes = disk.used_bytes() + 1000
    again = stepped_on(disk, settings)
    assert again.recovered.lanes[1].count == 1
    assert "/store/reserve" not in disk.paths()


def keep_the_reserve(patch):
    patch.setattr(Layout, "give_up_reserve", lambda self: False)


TRAPS = {
    "1": (
        trap_1_newest_checkpoint_damaged_after_segments_were_unlinked,
        unlink_by_the_newest_checkpoint_alone,
    ),
    "2": (trap_2_damaged_batch_looks_like_a_torn_tail, never_look_behind_a_bad_batch),
    "3": (trap_3_body_that_is_a_copy_of_a_journal, one_salt_for_all),
    "4": (trap_4_names_without_a_folder_sync, never_sync_folders),
    "5": (trap_5_sidecar_written_but_not_its_checkpoint, one_sidecar_for_all_epochs),
    "6": (trap_6_crash_halfway_through_a_compaction, leave_what_was_moved_where_it_was_too),
    "7 numbers": (trap_7_queue_deleted_and_declared_again, use_the_numbers_of_lanes_again),
    "7 entries": (trap_7_queue_deleted_and_declared_again, leave_dropped_lanes),
    "8": (trap_8_positions_that_transient_messages_had, forget_horizons),
    "9": (trap_9_every_second_of_many_acknowledged, keep_dead_positions_as_numbers),
    "10": (trap_10_purge_of_many, purge_message_by_message),
    "11": (trap_11_exact_bytes_without_reading_what_went, acknowledge_without_sizes),
    "12": (trap_12_many_expire_at_once, expire_all_in_one_turn),
    "13": (trap_13_out_of_space_while_recovering, keep_the_reserve),
}


@pytest.mark.parametrize("name", TRAPS)
def test_the_trap_is_stepped_around(name):
    TRAPS[name][0]()


@pytest.mark.parametrize("name", TRAPS)
def test_without_its_rule_the_trap_snaps(name, monkeypatch):
    scenario, switch_off = TRAPS[name]
    switch_off(monkeypatch)
    with pytest.raises(
        (AssertionError, Corrupt, Full, KeyError, ValueError, pytest.fail.Exception)
    ):
        scenario()
