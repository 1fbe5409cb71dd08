"""Salvage keeps all that is intact, lists what is not, and deletes nothing."""

import dataclasses
import random

import pytest

from store.errors import Corrupt, StoreError
from store.inspect import verify
from store.salvage import salvage
from store.segment import find_salt, open_segment
from tests.support.disk import Crashed, SimulatedDisk
from tests.support.store_drive import SMALL, DeadHost, Stepped, message, unit

QUIET = dataclasses.replace(SMALL, checkpoint_records=10**6, checkpoint_bytes=1 << 30)
COMPACTING = dataclasses.replace(SMALL, compact_share=0.9, compact_bytes_min=1)


def save(disk, **more):
    return salvage("/store", disk, DeadHost(), SMALL, **more)


def filled(settings=SMALL, keep=lambda p: p % 3 == 0, seed=1):
    """A store that was written in two epochs, with messages gone and requeued, and what lives in it."""
    disk = SimulatedDisk(seed)
    living = {1: {}, 2: {}}
    position = 0
    for _ in range(2):
        stepped = Stepped(disk, settings=settings)
        for _ in range(20):
            made = unit()
            made.define("queue a", {"lanes": [1]})
            rows = range(position, position + 10)
            for p in rows:
                sent = message(b"%d" % p * 30, b"h%d" % p)
                made.published += [(sent, 1, p), (sent, 2, p)]
                living[1][p] = living[2][p] = sent
            position += 10
            stepped.journal.commit(made)
            stepped.settle()
            gone = unit([], [(1, p, living[1].pop(p)) for p in rows if not keep(p)])
            stepped.journal.commit(gone)
            stepped.settle()
        made = unit()
        made.requeue(1, min(living[1]), 3)
        made.drop_lane(8)
        stepped.journal.commit(made)
        stepped.settle()
        stepped.journal.close()
    return disk, living


def content(disk):
    stepped = Stepped(disk)
    lanes = {}
    for lane in (1, 2):
        rows = stepped.journal.read(lane, 0, 10**6, 10**9)
        assert [r[0] for r in rows] == sorted({r[0] for r in rows})
        lanes[lane] = {p: (m.header, m.body) for p, m, _ in rows}
    return stepped, lanes


def bodies(living):
    return {lane: {p: (m.header, m.body) for p, m in rows.items()} for lane, rows in living.items()}


def flip_all_checkpoints(disk):
    for path in disk.paths():
        if path.startswith("/store/checkpoints/"):
            disk.flip(path, 60)


def segments(disk):
    return [p for p in disk.paths() if p.startswith("/store/segments/") and p.endswith(".seg")]


@pytest.mark.parametrize("settings", [SMALL, QUIET, COMPACTING])
def test_a_sound_store_comes_out_as_it_was(settings):
    disk, living = filled(settings)
    before = {p: disk.content(p) for p in segments(disk)}
    report = save(disk)
    assert not report.damage and not report.losses and report.has_checkpoint
    assert report.message_count == sum(map(len, living.values()))
    stepped, found = content(disk)
    assert found == bodies(living)
    assert stepped.recovered.definitions == {"queue a": {"lanes": [1]}}
    assert stepped.recovered.next_lane == 9
    assert stepped.journal.read(1, 0, 1, 1)[0][2] == 3
    assert verify("/store", disk).damage == []
    for path, raw in before.items():
        kept = path.replace("/store/", f"{report.quarantine}/")
        assert disk.content(kept) == raw


@pytest.mark.parametrize("settings", [SMALL, QUIET, COMPACTING])
def test_both_checkpoints_damaged_nothing_confirmed_is_lost(settings):
    disk, living = filled(settings)
    flip_all_checkpoints(disk)
    with pytest.raises(Corrupt, match="salvage"):
        Stepped(disk)
    report = save(disk)
    assert len(report.damage) == 2 and not report.losses and not report.has_checkpoint
    _, found = content(disk)
    for lane, rows in bodies(living).items():
        assert rows.items() <= found[lane].items()


def test_a_damaged_chunk_is_lost_alone_and_named():
    disk, living = filled(QUIET)
    path = segments(disk)[0]
    at = disk.content(path).index(b"h30\xc4")
    disk.flip(path, at)
    assert [str(d.path) for d in verify("/store", disk).damage] == [path]
    report = save(disk)
    lost = {(loss.lane, loss.first, loss.last, loss.count) for loss in report.losses}
    assert lost and all(loss.path == path for loss in report.losses)
    assert report.lane_names[1] == "queue a"
    _, found = content(disk)
    for lane, first, last, _ in lost:
        for position in range(first, last + 1):
            living[lane].pop(position, None)
    assert found == bodies(living)


def test_a_damaged_batch_in_the_middle_is_named_and_the_rest_is_saved():
    disk, living = filled(QUIET)
    flip_all_checkpoints(disk)
    path = segments(disk)[0]
    disk.flip(path, disk.content(path).index(b"gmB1", 6000))
    report = save(disk)
    assert len(report.missing_batches) == 1
    first, last = report.missing_batches[0]
    assert first == last
    _, found = content(disk)
    missing = [p for p in bodies(living)[2] if p not in found[2]]
    assert len(missing) <= 10, "one batch of ten messages at most"


def test_a_segment_without_its_header_is_saved_by_its_batches():
    disk, living = filled(QUIET)
    path = segments(disk)[0]
    with pytest.raises(Corrupt, match=r"."):
        disk.flip(path, 20)
        open_segment(disk, "/store/segments", (1 << 40) + 1)
    report = save(disk)
    assert any(error.path == path for error in report.damage) and not report.losses
    _, found = content(disk)
    assert found == bodies(living)


def test_the_salt_follows_from_whole_batches():
    disk, _ = filled(QUIET)
    segment = open_segment(disk, "/store/segments", (1 << 40) + 1)
    assert find_salt(segment) == segment.salt


@pytest.mark.parametrize("harm", ["truncate", "zero", "swap", "missing"])
def test_whole_segments_harmed_are_found_named_and_the_others_saved(harm):
    disk, living = filled(SMALL, keep=lambda p: True)
    paths = [p for p in segments(disk) if "000001-" in p.rpartition("/")[2]]
    assert len(paths) >= 2
    path, other = paths[0], paths[1]
    inode = disk._names[path]
    half = len(inode.cache) // 3
    for raw in (inode.cache, inode.disk):
        if harm == "truncate":
            del raw[half:]
        elif harm == "zero":
            raw[half : 2 * half] = bytes(half)
    if harm == "swap":
        disk._names[path], disk._names[other] = disk._names[other], disk._names[path]
    elif harm == "missing":
        del disk._names[path]
    damage = verify("/store", disk).damage
    assert damage and path in {str(d.path) for d in damage}
    report = save(disk)
    _, found = content(disk)
    for lane, rows in bodies(living).items():
        assert found[lane].items() <= rows.items()
        assert len(rows) - len(found[lane]) <= (220 if harm == "swap" else 120)
    assert report.message_count == sum(map(len, found.values()))
    assert report.damage or report.losses or report.missing_batches


def test_a_crash_at_any_call_and_salvage_again():
    chance = random.Random(3)
    for seed in range(12):
        disk, living = filled(QUIET, seed=seed)
        flip_all_checkpoints(disk)
        for _ in range(2):
            disk.crash_at = disk.call_count + chance.randrange(1, 700)
            try:
                save(disk)
            except (Crashed, StoreError):
                assert disk.is_dead
            disk.crash()
            if "/store/salvage" in disk.paths():
                with pytest.raises(StoreError, match="salvage"):
                    Stepped(disk)
        save(disk)
        _, found = content(disk)
        for lane, rows in bodies(living).items():
            assert rows.items() <= found[lane].items()
