"""Mostly dead segments are emptied and go; what lives stays readable, in order, with its counts."""

import dataclasses

from store.compaction import Item, _groups, find_sparse
from store.index import SegmentState, State
from store.inspect import verify
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, Stepped, message, unit

COMPACTING = dataclasses.replace(
    SMALL, segment_bytes=16 * 1024, compact_share=0.6, compact_bytes_min=1, compact_group_bytes=400
)


def fill(stepped, lanes=(1,), count=400, size=100):
    """Messages 0 … count - 1 in each lane; by position."""
    sent = {p: message(b"%d:" % p + bytes(size)) for p in range(count)}
    for start in range(0, count, 20):
        rows = [(sent[p], lane, p) for p in range(start, min(start + 20, count)) for lane in lanes]
        stepped.journal.commit(unit(rows))
        stepped.settle()
    return sent


def acknowledge(stepped, lane, sent, positions):
    stepped.journal.commit(unit([], [(lane, p, sent[p]) for p in positions]))
    for _ in range(40):
        stepped.settle()


def checkpoint(stepped, times=3):
    for _ in range(times):
        stepped.journal._checkpoint_aside()
        for _ in range(30):
            stepped.settle()


def rows(stepped, lane):
    found = stepped.journal.read(lane, 0, 10**6, 10**9)
    return [(p, int(m.body.split(b":")[0]), count) for p, m, count in found]


def segments(disk):
    return [p for p in disk.paths() if p.endswith(".seg")]


def test_a_few_old_messages_pin_no_segments():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk, settings=COMPACTING)
    sent = fill(stepped)
    before = len(segments(disk))
    kept = [0, 57, 58, 133, 250, 399]
    acknowledge(stepped, 1, sent, [p for p in sent if p not in kept])
    checkpoint(stepped)
    assert before > 4 and len(segments(disk)) <= 3
    assert rows(stepped, 1) == [(p, p, 0) for p in kept]
    assert stepped.journal.stat()["compacted_segments"] >= 3
    assert verify("/store", disk).damage == []
    disk.crash()
    again = Stepped(disk, settings=COMPACTING)
    assert rows(again, 1) == [(p, p, 0) for p in kept]


def test_delivery_counts_and_horizons_move_along():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk, settings=COMPACTING)
    sent = fill(stepped)
    made = unit()
    made.requeue(1, 57, 3)
    made.horizon(1, 5000)
    stepped.journal.commit(made)
    acknowledge(stepped, 1, sent, [p for p in sent if p != 57])
    checkpoint(stepped)
    disk.crash()
    again = Stepped(disk, settings=COMPACTING)
    assert rows(again, 1) == [(57, 57, 3)]
    state = again.recovered.lanes[1]
    assert (state.first, state.next, state.count, state.horizon) == (57, 400, 1, 5000)


def test_a_message_of_several_lanes_moves_once_for_all():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk, settings=COMPACTING)
    sent = fill(stepped, lanes=(1, 2, 3))
    gone = [(1, p) for p in sent if p % 50] + [(2, p) for p in sent if p % 100]
    gone += [(3, p) for p in sent]
    # At once: of what still lived in one lane the first compaction would rightly make a copy.
    stepped.journal.commit(unit([], [(lane, p, sent[p]) for lane, p in gone]))
    checkpoint(stepped)
    assert rows(stepped, 1) == [(p, p, 0) for p in sent if p % 50 == 0]
    assert rows(stepped, 2) == [(p, p, 0) for p in sent if p % 100 == 0]
    moved = stepped.journal.stat()["moved_bytes"]
    assert stepped.journal.stat()["compacted_segments"] >= 4
    # Eight of 110 bytes and what is told of them; each lane's own copy would be twelve.
    assert 8 * 110 < moved < 8 * 150, "one copy for all lanes"


def test_what_dies_between_reading_and_writing_is_left_out(caplog):
    disk = SimulatedDisk(1)
    stepped = Stepped(disk, settings=COMPACTING)
    sent = fill(stepped)
    stepped.journal.commit(unit([], [(1, p, sent[p]) for p in range(390) if p % 30 > 1]))
    stepped.writer.step()
    for _ in range(20):
        if stepped.journal._upkeep.is_moving:
            break
        stepped.writer.run_jobs()
        stepped.journal._tend()
    assert stepped.journal._upkeep.is_moving, "a group was read and waits"
    stepped.journal.commit(unit([], [(1, p, sent[p]) for p in range(0, 390, 30)]))
    for _ in range(40):
        stepped.settle()
    left = [*range(1, 390, 30), *range(390, 400)]
    assert rows(stepped, 1) == [(p, p, 0) for p in left]
    assert stepped.journal.stat()["messages"] == len(left)
    assert stepped.journal.stat()["compacted_segments"] >= 3
    assert "cannot be compacted" not in caplog.text


def test_segments_full_of_small_living_messages_are_left_alone():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk, settings=COMPACTING)
    fill(stepped, size=0)
    checkpoint(stepped)
    assert stepped.journal.stat()["moved_bytes"] < 4000, "no running in circles"


def test_damage_in_a_segment_stops_its_compaction_and_nothing_else():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk, settings=COMPACTING)
    sent = fill(stepped)
    path = segments(disk)[0]
    disk.flip(path, disk.content(path).index(b"57:"))
    acknowledge(stepped, 1, sent, [p for p in sent if p not in (57, 200)])
    checkpoint(stepped)
    assert not stepped.box.failed and path in segments(disk)
    assert [row[0] for row in stepped.journal.read(1, 100, 9, 10**6)] == [200]


def test_the_sparsest_is_chosen_and_small_stores_are_left_alone():
    state = State()
    for id, count in ((1, 9), (2, 1), (3, 3), (4, 0)):
        state.segments[id] = SegmentState(id, count, 5, 1000, count * 100, 10, 1000)
    assert find_sparse(state, set(), 0.5, 0) == 2
    assert find_sparse(state, {2}, 0.5, 0) == 3
    assert find_sparse(state, {2, 3}, 0.5, 0) is None
    assert find_sparse(state, set(), 0.5, 4001) is None


def item(*places):
    return Item([message(bytes(100))], [(lane, [position]) for lane, position in places])


def test_groups_are_cut_only_where_no_lane_is_interleaved():
    items = [item((1, 5)), item((1, 3)), item((1, 7), (2, 4)), item((2, 2)), item((2, 9))]
    groups = _groups(items, 1)
    assert [len(group) for group in groups] == [2, 2, 1]
    assert [len(group) for group in _groups(items, 10**6)] == [5]
    assert _groups([], 1) == []
