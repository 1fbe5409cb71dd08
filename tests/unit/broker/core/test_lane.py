"""A lane: where what comes back is put."""

from __future__ import annotations

import pytest

from broker.core.lane import Lane
from tests.support.core import Core


def lane_with(core: Core, count: int) -> Lane:
    core.vhost.declare_queue("q")
    for number in range(count):
        core.publish("", "q", b"%02d" % number)
    lane: Lane = core.vhost.queues["q"].lane
    return lane


@pytest.mark.parametrize(
    "returned",
    [(0, 1, 2), (3, 5), (9,), (0, 2, 4, 6, 8), tuple(range(0, 20, 2)), tuple(range(20))],
    ids=str,
)
def test_what_comes_back_goes_to_its_place(returned):
    core = Core()
    lane = lane_with(core, 20)
    everything = list(lane.ready)
    size_bytes = lane.bytes
    taken = [everything[at] for at in returned]
    lane.ready = type(lane.ready)(one for one in everything if one not in taken)
    lane.bytes -= 2 * len(taken)
    lane.insert(taken)
    assert list(lane.ready) == everything
    assert lane.bytes == size_bytes


def test_clear_leaves_what_is_in_hands():
    core = Core()
    lane = lane_with(core, 3)
    core.vhost.get("q", True)
    lane.paged_count, lane.paged_bytes = 4, 40
    lane.clear()
    assert not lane.ready and not lane.bytes and not lane.paged_count and not lane.paged_bytes
    assert len(lane.unsettled) == 1 and lane.next == 3
