"""Position sets against plain sets; lanes against arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.checkpoint import LaneCopy
from store.index import SUMMARY, Lane, State
from store.positions import BITS, PositionSet
from store.record import ACKNOWLEDGE, PUBLISH, decode_value, encode_value, positions_of, ranges_of

SPANS = st.lists(st.tuples(st.integers(0, 3 * BITS), st.integers(0, 2 * BITS)), max_size=6)


@given(
    spans=SPANS, removed=st.lists(st.integers(0, 3 * BITS), max_size=5), at=st.integers(0, 4 * BITS)
)
def test_a_position_set_is_a_set(spans, removed, at):
    positions, model = PositionSet(), set()
    for first, count in spans:
        positions.add(first, first + count)
        model.update(range(first, first + count))
    for position in removed:
        positions.remove(position)
        model.discard(position)
    again = PositionSet.thaw(decode_value(encode_value(positions.freeze())))
    for found in (positions, again):
        assert bool(found) == bool(model)
        assert (at in found) == (at in model)
        assert found.count_in(at // 2, at) == len([p for p in model if at // 2 <= p < at])
        absent = at
        while absent in model:
            absent += 1
        assert found.next_absent(at) == absent


@given(st.sets(st.integers(0, 50), min_size=1))
def test_ranges_fold_and_unfold(found):
    positions = sorted(found)
    assert list(positions_of(ranges_of(positions))) == positions


def test_full_pieces_cost_one_entry_on_disk():
    positions = PositionSet()
    positions.add(0, 1000 * BITS)
    assert len(encode_value(positions.freeze())) < 20


def test_runs_follow_segments_and_vanish_with_their_last_message():
    state = State()
    state.apply((PUBLISH, 0, 10, 1, [(4, [0, 3], 30)]), 100, 64)
    state.apply((PUBLISH, 0, 10, 1, [(4, [3, 2], 20)]), 200, 64)
    lane = state.lanes[4]
    assert [lane.runs.run(i) for i in range(len(lane.runs))] == [
        (100, 0, 2, 3, 30),
        (200, 3, 4, 2, 20),
    ]
    assert [lane.runs.find(position) for position in (2, 3, 5)] == [0, 1, -1]
    state.apply((ACKNOWLEDGE, 4, [0, 3], [100, 3, 30]), 200, 64)
    assert [lane.runs.run(i)[0] for i in range(len(lane.runs))] == [200] and lane.head == 3
    assert state.segments[100].count == 0 and state.segments[200].count == 2
    assert (lane.count, lane.bytes) == (2, 20)


def test_an_unknown_record_kind_is_refused():
    with pytest.raises(ValueError, match="unknown record kind 77"):
        State().apply((77,), 1, 64)


def test_a_lane_freezes_and_thaws():
    lane = Lane(3)
    lane.extend(100, [5, 2, 9, 1], 30, 64, (10, 1))
    lane.bury(6, 7)
    lane.subtract(0, 1, 10)
    again = Lane.thaw(decode_value(LaneCopy(lane).pack()[SUMMARY.size :]))
    for name in ("number", "head", "next", "count", "bytes", "horizon"):
        assert getattr(again, name) == getattr(lane, name)
    assert [p for p in range(12) if again.is_alive(p)] == [5, 9]
