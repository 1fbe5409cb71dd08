"""What must refuse a start, and what a journal keeps to in its ordinary life; the design's known traps: test_traps.py."""

import dataclasses
import zlib

import pytest

from store.checkpoint import decode_checkpoint
from store.errors import Corrupt, Fenced, StoreError, VersionMismatch
from store.inspect import dump
from store.journal import Journal
from store.lease import InUse, RealHost
from store.writer import SteppedWriter
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, DeadHost, Stepped, message, open_store, unit


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


def test_both_checkpoints_damaged_stop_the_start_with_the_file_named():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    publish(stepped, 1, range(5))
    stepped.journal.close()
    for path in checkpoints(disk):
        disk.flip(path, 60)
    with pytest.raises(Corrupt, match="no usable checkpoint") as caught:
        Stepped(disk)
    assert caught.value.path in checkpoints(disk)


def test_trap_2_a_damaged_batch_at_the_end_of_a_sealed_epoch_is_no_torn_tail():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    publish(stepped, 1, [0])
    last = list(dump("/store", disk))[-1]
    disk.crash()
    Stepped(disk)
    disk.crash()
    disk.flip(f"/store/segments/{last['segment']}", last["offset"] + 5)
    with pytest.raises(Corrupt):
        Stepped(disk)


def test_memory_of_a_stored_backlog_does_not_grow_with_it():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    for start in range(0, 2000, 20):
        publish(stepped, 1, range(start, start + 20), size=100)
    checkpoint(stepped)
    lane = stepped.journal._state.find(1)
    assert lane.count == 2000 and not lane.dead
    assert not lane.extents and not lane.frozen
    assert len(lane.runs) < 20 and not stepped.journal._reader.unwritten
    assert positions(stepped.journal, 1) == list(range(2000))


def test_two_living_processes_on_one_folder_are_refused():
    disk = SimulatedDisk(1)
    journal = Stepped(disk).journal
    second = Journal("/store", SMALL, disk, host=RealHost())
    # A living owner as the kernel sees it: ourselves.
    journal._lease.release()
    first = Journal("/store", SMALL, disk, host=RealHost())
    open_store(first)
    with pytest.raises(InUse, match=r"in use by process \d+ on host"):
        open_store(second)
    first.close()
    recovered, _ = open_store(second)
    assert recovered.epoch == 3
    second.close()


def test_an_owner_that_was_taken_over_confirms_nothing_more():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    publish(stepped, 1, [0])
    successor = Stepped(disk)
    told = list(stepped.box.durable)
    stepped.journal.commit(unit([(message(), 1, 1)]))
    stepped.settle()
    assert stepped.box.durable == told and isinstance(stepped.box.failed[0], Fenced)
    assert positions(successor.journal, 1) == [0]
    disk.crash()
    assert positions(Stepped(disk).journal, 1) == [0]


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (99, r"reads gridmsg-store 2: start the version that wrote it \(a newer gridmsg\)"),
        (1, "an older gridmsg wrote it; start that one, let consumers empty its queues"),
    ],
)
def test_a_folder_of_another_version_says_what_to_do(version, advice):
    disk = SimulatedDisk(1)
    Stepped(disk).journal.close()
    text = f"gridmsg-store {version}\nid 00\n"
    file = disk.open("/store/FORMAT", is_writable=True)
    disk._names["/store/FORMAT"].cache.clear()
    file.write(0, [f"{text}crc {zlib.crc32(text.encode()):08x}\n".encode()])
    with pytest.raises(VersionMismatch, match=advice):
        Stepped(disk)


def test_a_checkpoint_of_another_layout_is_refused_and_a_damaged_one_passed_over():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    publish(stepped, 1, range(5))
    stepped.journal.close()
    newest = checkpoints(disk)[-1]
    # One flipped byte of the version is damage: the header's checksum says so.
    disk.flip(newest, 6)
    assert Stepped(disk).recovered.lanes[1].count == 5
    raw = bytearray(disk.content(newest))
    raw[6:7] = b"9"
    raw[36:40] = zlib.crc32(raw[:36]).to_bytes(4, "little")
    with pytest.raises(VersionMismatch, match=r"b'9', this program reads b'2'"):
        decode_checkpoint(bytes(raw), newest)


def test_a_folder_without_its_format_file_is_refused():
    disk = SimulatedDisk(1)
    Stepped(disk).journal.close()
    disk.unlink("/store/FORMAT")
    with pytest.raises(StoreError, match="FORMAT is missing"):
        Stepped(disk)


def test_a_folder_that_may_not_be_written_says_what_to_do():
    disk = SimulatedDisk(1)

    def refuse(name, count):
        if name == "make_folder":
            raise PermissionError(13, "Permission denied", "/store")

    disk.before_call = refuse
    with pytest.raises(StoreError, match="no permission to write to the store folder /store"):
        Stepped(disk)


def test_a_unit_larger_than_a_segment_gets_one_of_its_own():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    publish(stepped, 1, [0])
    publish(stepped, 1, [1], size=200_000)
    publish(stepped, 1, [2])
    disk.crash()
    again = Stepped(disk)
    assert positions(again.journal, 1) == [0, 1, 2]
    assert len(again.journal.read(1, 1, 1, 10)[0][1].body) == 200_000


def test_too_much_journal_without_a_checkpoint_blocks_publishers():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    journal = stepped.journal
    position = 0
    while not journal.is_blocked:
        journal.commit(unit([(message(bytes(1000)), 1, position)]))
        position += 1
        stepped.step()
        assert position < 100
    assert stepped.box.blocked == [True]
    for _ in range(3):
        stepped.settle()
    assert stepped.box.blocked == [True, False] and not journal.is_blocked


def test_the_interval_policy_confirms_after_the_write_and_syncs_when_its_time_has_come():
    disk = SimulatedDisk(1)
    now = [100.0]
    writer = SteppedWriter()
    settings = dataclasses.replace(SMALL, sync="interval", sync_interval_seconds=0.5)
    journal = Journal(
        "/store", settings, disk, writer=writer, host=DeadHost(), clock=lambda: now[0]
    )
    _, box = open_store(journal)
    writer.run_jobs()
    disk.calls.clear()
    for position in range(3):
        journal.commit(unit([(message(), 1, position)]))
        writer.step()
    assert box.durable == [1, 2, 3] and "sync" not in disk.calls
    now[0] += 0.5
    writer.step()
    assert disk.calls.count("sync") == 1
    disk.crash()
    assert positions(Stepped(disk).journal, 1) == [0, 1, 2]


def test_one_sync_covers_all_units_that_waited():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    stepped.writer.run_jobs()
    disk.calls.clear()
    for position in range(50):
        stepped.journal.commit(unit([(message(), 1, position)]))
    stepped.step()
    assert stepped.box.durable == [50] and disk.calls.count("sync") == 1
    assert disk.calls.count("write") == 1


def test_a_start_that_is_refused_leaves_the_folder_as_it_was():
    disk = SimulatedDisk(1)
    stepped = Stepped(disk)
    publish(stepped, 1, range(5))
    stepped.journal.close()
    for path in checkpoints(disk):
        disk.flip(path, 60)
    before = [p for p in disk.paths() if "/lease/" not in p]
    with pytest.raises(Corrupt):
        Stepped(disk)
    assert [p for p in disk.paths() if "/lease/" not in p] == before


def calls_of_an_opening(disk):
    before = disk.call_count
    stepped = Stepped(disk)
    return stepped, disk.call_count - before


def test_a_start_after_many_kills_costs_what_one_after_few_does():
    disk = SimulatedDisk(1)
    found = []
    for _ in range(25):
        stepped, count = calls_of_an_opening(disk)
        found.append(count)
        stepped.settle()
        disk.kill()
    assert max(found[10:]) <= max(found[:10])


def test_only_the_last_epoch_that_opened_is_settled():
    disk = SimulatedDisk(1)
    for _ in range(6):
        # Killed at once: nobody had the time for a checkpoint.
        Stepped(disk)
        disk.kill()
    disk.calls.clear()
    stepped, _ = calls_of_an_opening(disk)
    assert disk.calls.count("forget_cached") <= 2
    assert stepped.recovered.epoch == 7
