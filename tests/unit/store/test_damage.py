"""Damage that a running store meets stops what lies there and nothing else: purges, sidecars, compaction, other lanes."""

import dataclasses
import time

import pytest

from store.batch import gather
from store.errors import Corrupt
from store.index import State
from store.inspect import verify
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, Stepped, message, unit

# No compaction: what is stored stays where it is.  Hardly a cache: what is asked for is read.
KEPT = dataclasses.replace(SMALL, compact_share=0.0, cache_bytes=1)
LANES = (1, 2, 3)


def fill(stepped, count=60, size=300):
    """Messages of every lane in turn; by lane and position."""
    sent = {
        (lane, p): message(b"%d:%d:" % (lane, p) + bytes(size))
        for p in range(count)
        for lane in LANES
    }
    for start in range(0, count, 5):
        rows = [(sent[lane, p], lane, p) for lane in LANES for p in range(start, start + 5)]
        stepped.journal.commit(unit(rows))
        stepped.settle()
    return sent


def checkpoint(stepped):
    stepped.journal._checkpoint_aside()
    stepped.settle()


def flip(disk, body):
    """Turn a byte of a stored body."""
    (path,) = [p for p in disk.paths() if p.endswith(".seg") and body in disk.content(p)]
    disk.flip(path, disk.content(path).index(body))
    return path


def rows(stepped, lane, first=0):
    return [(p, m.body) for p, m, _ in stepped.journal.read(lane, first, 10**6, 10**9)]


def living(sent, lane, positions):
    return [(p, sent[lane, p].body) for p in positions]


@pytest.fixture
def disk():
    return SimulatedDisk(1)


@pytest.fixture
def stepped(disk):
    return Stepped(disk, settings=KEPT)


def test_a_purge_that_keeps_what_cannot_be_read_ends_nothing(disk, stepped, caplog):
    sent = fill(stepped)
    checkpoint(stepped)
    path = flip(disk, b"1:7:")
    purge = unit()
    purge.purge(1, 60, [7, 8, 40])
    stepped.journal.commit(purge)
    stepped.journal.commit(unit([(message(b"later"), 2, 60)]))
    stepped.settle()
    assert stepped.box.failed == [] and stepped.journal.durable == stepped.journal._committed
    assert path in caplog.text and "guessed" in caplog.text
    assert rows(stepped, 2) == [*living(sent, 2, range(60)), (60, b"later")]
    assert rows(stepped, 1, 9) == living(sent, 1, [40])
    with pytest.raises(Corrupt, match=r"\.seg"):
        rows(stepped, 1)
    # The damaged ones can still be acknowledged by who holds them, and nothing is left over.
    stepped.journal.commit(unit([], [(1, p, sent[1, p]) for p in (7, 8, 40)]))
    stepped.settle()
    assert stepped.journal._state.find(1).summary()[3:5] == (0, 0)
    figures = stepped.journal.stat()
    assert figures["messages"] == 121
    assert (
        figures["message_bytes"]
        == sum(len(m.body) + 6 for (lane, _), m in sent.items() if lane > 1) + 11
    )
    disk.crash()
    again = Stepped(disk, settings=KEPT)
    assert again.recovered.lanes[1].count == again.recovered.lanes[1].bytes == 0
    assert rows(again, 3) == living(sent, 3, range(60))


def test_a_purge_reads_a_chunk_once_for_all_that_it_keeps(disk, stepped):
    sent = fill(stepped)
    checkpoint(stepped)
    kept = list(range(5, 55))
    before = disk.calls.count("read")
    purge = unit()
    purge.purge(1, 60, kept)
    stepped.journal.commit(purge)
    stepped.settle()
    assert disk.calls.count("read") - before < 60, "12 chunks, and where they lie"
    assert rows(stepped, 1) == living(sent, 1, kept)
    assert stepped.recovered is not None and stepped.journal._state.find(1).bytes == sum(
        len(sent[1, p].body) + 6 for p in kept
    )


@pytest.mark.parametrize("damage", ["flip", "lose"])
def test_a_sidecar_that_cannot_be_read_is_worked_out_from_its_segment(
    disk, stepped, caplog, damage
):
    sent = fill(stepped)
    dead = [p for p in range(60) if p % 7 == 3]
    stepped.journal.commit(unit([], [(1, p, sent[1, p]) for p in dead]))
    checkpoint(stepped)
    more = {(lane, p): message(b"more %d" % p) for lane in LANES for p in range(60, 70)}
    stepped.journal.commit(unit([(m, lane, p) for (lane, p), m in more.items()]))
    stepped.settle()
    checkpoint(stepped)
    sent |= more
    sidecars = [p for p in disk.paths() if p.endswith(".idx")]
    assert len(sidecars) > 2
    for path in sidecars:
        if damage == "lose":
            disk.unlink(path)
            continue
        for offset in range(40, len(disk.content(path)), 100):
            disk.flip(path, offset)
    caplog.clear()
    for _ in range(2):
        assert rows(stepped, 1) == living(sent, 1, [p for p in range(70) if p not in dead])
        for lane in (2, 3):
            assert rows(stepped, lane) == living(sent, lane, range(70))
            assert rows(stepped, lane, 33)[:2] == living(sent, lane, [33, 34])
    told = [
        r.getMessage() for r in caplog.records if "its segment is read instead" in r.getMessage()
    ]
    assert len(told) == len(set(told)) == len(sidecars)


def test_a_sidecar_and_its_segment_damaged_are_named_and_nothing_is_passed_over(disk, stepped):
    sent = fill(stepped)
    checkpoint(stepped)
    for path in [p for p in disk.paths() if p.endswith(".idx")]:
        disk.unlink(path)
    first = min(p for p in disk.paths() if p.endswith(".seg"))
    # A batch that others follow in its segment.
    at = disk.content(first).index(b"gmB1", 4100)
    disk.flip(first, at + 20)
    with pytest.raises(Corrupt, match="a batch is damaged"):
        rows(stepped, 1)
    stepped.journal.commit(unit([(message(b"new"), 1, 60)]))
    stepped.settle()
    assert stepped.box.failed == []
    last = stepped.journal._state.find(2).runs.run(1)[1]
    assert rows(stepped, 2, last) == living(sent, 2, range(last, 60)), "other segments are whole"


def test_chunks_that_lie_among_each_other_are_worked_out_once(disk, stepped):
    """Fan-outs in one batch: lane 1 has chunks whose positions interleave, over several pages."""
    sent = {p: message(b"%d:" % p) for p in range(40)}
    published = []
    for p, one in sent.items():
        published += [
            (one, lane, p) for lane in (1, *(2 + bit for bit in range(4) if p % 16 >> bit & 1))
        ]
    stepped.journal.commit(unit(published))
    stepped.settle()
    checkpoint(stepped)
    assert len(stepped.journal._state.find(1).runs.pages_of(0)) > 2
    whole = rows(stepped, 1)
    for path in [p for p in disk.paths() if p.endswith(".idx")]:
        disk.unlink(path)
    assert rows(stepped, 1) == whole == [(p, sent[p].body) for p in range(40)]
    for lane in (2, 3, 4, 5):
        found = [p for p, _ in rows(stepped, lane)]
        assert found == [p for p in range(40) if p % 16 >> (lane - 2) & 1]


def test_a_read_error_stops_a_compaction_and_nothing_else(disk, caplog):
    moving = dataclasses.replace(
        SMALL, segment_bytes=16 * 1024, compact_share=0.6, compact_bytes_min=1
    )
    stepped = Stepped(disk, settings=moving)
    sent = fill(stepped)

    def fail(name, count):
        if name == "read":
            raise OSError(5, "Input/output error")

    disk.before_call = fail
    stepped.journal.commit(unit([], [(lane, p, m) for (lane, p), m in sent.items() if p % 9]))
    for _ in range(10):
        stepped.settle()
    disk.before_call = None
    assert stepped.box.failed == []
    assert "cannot be compacted and stays: [Errno 5]" in caplog.text
    for lane in LANES:
        assert rows(stepped, lane) == living(sent, lane, range(0, 60, 9))


def test_what_is_published_and_acknowledged_in_many_lanes_costs_the_same_in_each():
    def cost(count):
        made = unit()
        for lane in range(count):
            one = message()
            made.published.append((one, lane, 0))
            made.acknowledged.append((lane, 0, one))
        started = time.thread_time()
        assert not gather(State(), [made], 1000)
        return (time.thread_time() - started) / count

    # Every acknowledgement looked through all others: twenty times as much for each.
    assert min(cost(4000) for _ in range(3)) < 6 * min(cost(200) for _ in range(5))


def test_a_flipped_byte_is_named_by_verify(disk, stepped):
    fill(stepped)
    checkpoint(stepped)
    path = flip(disk, b"2:20:")
    assert [error.path for error in verify("/store", disk).damage] == [path]
