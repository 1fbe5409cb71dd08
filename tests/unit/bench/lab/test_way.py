from __future__ import annotations

import statistics

import pytest

from bench.lab.way import DROPPED, Line, Way, change

MS = 1_000_000


def dues(line, sizes, gap_ns=0, seed="1"):
    way = Way(line, seed)
    return [way.admit(size, index * gap_ns) for index, size in enumerate(sizes)]


def test_the_delay_is_added_to_each_packet():
    assert dues(Line(delay_ns=31 * MS), [100] * 3, gap_ns=MS) == [31 * MS, 32 * MS, 33 * MS]


def test_jitter_is_spread_evenly_over_its_range():
    # Packets far apart, so that keeping the order changes nothing.
    line = Line(delay_ns=10 * MS, jitter_ns=4 * MS)
    found = dues(line, [100] * 2000, gap_ns=20 * MS)
    extra = [due - index * 20 * MS - 10 * MS for index, due in enumerate(found)]
    assert min(extra) >= 0
    assert max(extra) <= 4 * MS
    assert statistics.mean(extra) == pytest.approx(2 * MS, rel=0.05)
    quarters = statistics.quantiles(extra, n=4)
    assert quarters == pytest.approx([MS, 2 * MS, 3 * MS], rel=0.12)


def test_jitter_keeps_the_order():
    found = dues(Line(delay_ns=MS, jitter_ns=50 * MS), [100] * 1000, gap_ns=1000)
    assert found == sorted(found)


def test_the_share_of_losses_is_as_told():
    found = dues(Line(loss=0.1), [100] * 20_000)
    assert found.count(DROPPED) == pytest.approx(2000, rel=0.1)


def test_losses_are_the_same_for_the_same_seed_only():
    line = Line(loss=0.3, jitter_ns=MS)
    assert dues(line, [1] * 200) == dues(line, [1] * 200)
    assert dues(line, [1] * 200) != dues(line, [1] * 200, seed="2")


def test_the_bandwidth_is_not_exceeded_and_is_reached():
    line = Line(bytes_per_second=1e6, queue_bytes=10**9)
    found = dues(line, [1000] * 500)
    assert found[-1] == pytest.approx(500_000 / 1e6 * 1e9, rel=0.001)


def test_the_queue_at_the_bandwidth_drops_what_does_not_fit():
    line = Line(bytes_per_second=1e6, queue_bytes=10_000)
    way = Way(line, "1")
    found = [way.admit(1000, 0) for _ in range(50)]
    assert found.count(DROPPED) == 40
    assert way.overflow_count == 40
    # Half of the queue is sent 5 ms later.
    later = [way.admit(1000, 5 * MS) for _ in range(50)]
    assert later.count(DROPPED) == 45


def test_reordered_packets_overtake_by_what_was_told():
    line = Line(delay_ns=10 * MS, reorder=0.1, reorder_ns=3 * MS)
    found = dues(line, [100] * 2000, gap_ns=MS)
    early = sum(b < a for a, b in zip(found, found[1:], strict=False))
    assert early == pytest.approx(200, rel=0.25)
    assert all(due >= index * MS + 7 * MS for index, due in enumerate(found))


def test_a_reordered_packet_never_leaves_before_it_came():
    line = Line(reorder=0.5, reorder_ns=5 * MS)
    assert all(due >= index for index, due in enumerate(dues(line, [1] * 200, gap_ns=1)))


def test_a_cut_line_drops_everything_and_counts_it():
    line = Line()
    way = Way(line, "1")
    way.admit(100, 0)
    line.is_cut = True
    way.forget(1)
    assert way.admit(100, 0) == DROPPED
    assert way.counts()["cut"] == 2
    assert way.held_bytes == 0


def test_a_stream_is_delayed_and_paced_but_never_dropped():
    way = Way(Line(delay_ns=5 * MS, loss=0.9, bytes_per_second=1e6, queue_bytes=1), "1")
    found = [way.pace(1000, 0) for _ in range(10)]
    assert DROPPED not in found
    assert found[-1] == 5 * MS + 10 * MS


def test_a_changed_line_counts_from_the_next_packet_on():
    line = Line(delay_ns=10 * MS)
    way = Way(line, "1")
    assert way.admit(1, 0) == 10 * MS
    change(line, {"delay_ns": 125.0 * MS})
    assert way.admit(1, 0) == 125 * MS


@pytest.mark.parametrize("wanted", [{"colour": 1.0}, {"loss": -0.1}, {"is_cut": 1.0}])
def test_a_line_cannot_be_changed_to_nonsense(wanted):
    with pytest.raises(ValueError, match="a line has"):
        change(Line(), wanted)
