"""Ten thousand lanes: what a checkpoint takes in memory beside them, and that what it lets go is still there."""

import dataclasses
import tracemalloc

from store.checkpoint import WRITE_BYTES, Place, decode_checkpoint, encode_checkpoint, write_file
from store.index import State
from store.runs import Runs
from store.writer import SteppedWriter
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, Stepped, message, unit

LARGE = dataclasses.replace(SMALL, checkpoint_bytes=1 << 30, checkpoint_records=1 << 30)


def publish(stepped, lanes, position):
    stepped.journal.commit(
        unit([(message(b"%d:%d" % (lane, position)), lane, position) for lane in lanes])
    )
    stepped.step()


def rows(stepped, lane):
    return [m.body for _, m, _ in stepped.journal.read(lane, 0, 10**6, 10**9)]


def test_busy_lanes_are_kept_open_and_quiet_ones_packed_never_both():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk, settings=LARGE)
    state = stepped.journal._state
    publish(stepped, range(1, 9), 0)
    stepped.journal._checkpoint_aside()
    # While it is written, half of them go on.
    publish(stepped, range(1, 5), 1)
    stepped.writer.run_jobs()
    assert set(state.packed) == {5, 6, 7, 8} and set(state.lanes) == {1, 2, 3, 4}
    publish(stepped, (1, 5), 2)
    stepped.journal._checkpoint_aside()
    stepped.writer.run_jobs()
    assert set(state.packed) == set(range(1, 9)) and not state.lanes
    expected = {
        lane: [
            b"%d:%d" % (lane, p)
            for p in range(3)
            if p == 0 or (p == 1 and lane < 5) or (p == 2 and lane in (1, 5))
        ]
        for lane in range(1, 9)
    }
    assert {lane: rows(stepped, lane) for lane in expected} == expected
    disk.crash()
    again = Stepped(disk, settings=LARGE)
    assert {lane: rows(again, lane) for lane in expected} == expected
    assert {n: s.count for n, s in again.recovered.lanes.items()} == {
        lane: len(bodies) for lane, bodies in expected.items()
    }


def test_a_checkpoint_of_many_lanes_lets_other_threads_go_on(monkeypatch):
    given = []
    monkeypatch.setattr(SteppedWriter, "yield_now", lambda writer: given.append(1))
    stepped = Stepped(SimulatedDisk(1), settings=LARGE)
    publish(stepped, range(1, 201), 0)
    stepped.journal._checkpoint_aside()
    stepped.writer.run_jobs()
    assert len(given) >= 200 // 16


def test_a_chunk_without_gaps_carries_no_ranges():
    state = State()
    state.lane(1).extend(7, [0, 5], 500, 4096, (520, 1))
    state.lane(1).extend(7, [5, 2, 9, 1], 300, 4800, (310, 2))
    assert [extent[6] for extent in state.lanes[1].extents] == [(), [5, 2, 9, 1]]


def test_a_copy_of_runs_does_not_see_later_pages_and_losses():
    runs = Runs()
    for index in range(3):
        runs.insert(index, index, index * 10, index * 10 + 9, 10, 1000)
        runs.add_pages(index, [(1, index, 50, index * 10, index * 10 + 9)])
    copy = runs.copy()
    frozen = copy.freeze()
    runs.subtract(0, 10, 1000)
    runs.add_pages(0, [(1, 99, 50, 10, 19)])
    runs.add_pages(1, [(1, 100, 50, 20, 29)])
    assert copy.freeze() == frozen
    assert [page[1] for page in runs.pages_of(0)] == [1, 99]
    assert [page[1] for page in runs.pages_of(1)] == [2, 100]


def test_a_large_checkpoint_is_never_whole_in_memory():
    blobs = [bytes([n % 251]) * 1000 for n in range(4000)]
    state = State()
    sizes = []
    disk = SimulatedDisk(1)
    disk.make_folder("/c")

    class Watched:
        """A file that notes how much it is given at once."""

        def __init__(self, file):
            self._file = file

        def write(self, offset, parts):
            sizes.append(sum(map(len, parts)))
            assert offset == sum(sizes[:-1])
            return sizes[-1]

        def __getattr__(self, name):
            return getattr(self._file, name)

    class Files:
        create = staticmethod(lambda path: Watched(disk.create(path)))
        exists = staticmethod(disk.exists)

    tracemalloc.start()
    try:
        parts = encode_checkpoint(3, 4, Place(5, 6, 7, 8), state.freeze(), blobs)
        write_file(Files(), "/c", "x", parts)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) > 4_000_000 and max(sizes) <= WRITE_BYTES + 1000
    assert peak_bytes < 2_000_000
    found = decode_checkpoint(b"".join(parts), "/c/x")
    assert (found.epoch, found.number, found.place.batch, found.place.offset) == (3, 4, 5, 8)
