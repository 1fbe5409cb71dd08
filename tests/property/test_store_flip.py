"""Each byte of a small store flipped in turn: found by verify, or in unused space and harmless; contained; and salvaged.

GRIDMSG_FLIP_STRIDE=1 flips every byte for the start and the salvage, too; by default they see every 97th.
"""

import os

import pytest

from store.errors import StoreError
from store.inspect import dump, stat, verify
from store.salvage import salvage
from tests.support.disk import SimulatedDisk
from tests.support.store_drive import SMALL, DeadHost, Stepped, message, unit

STRIDE = int(os.environ.get("GRIDMSG_FLIP_STRIDE", "97"))


def small_store():
    disk = SimulatedDisk(7)
    stepped = Stepped(disk)
    for start in (0, 3, 6):
        sent = [message(b"body %d" % i, b"h%d" % i) for i in range(3)]
        made = unit([(m, 1, start + i) for i, m in enumerate(sent)])
        made.published.append((sent[2], 2, start // 3))
        made.define(f"q{start}", {"name": start})
        stepped.journal.commit(made)
        stepped.step()
    stepped.journal.close()
    return disk


def content(disk):
    stepped = Stepped(disk)
    lanes = [
        [(p, m.header, m.body) for p, m, _ in stepped.journal.read(lane, 0, 99, 10**6)]
        for lane in (1, 2)
    ]
    found = stepped.recovered.definitions, lanes
    stepped.writer.run_jobs()
    stepped.journal._reader.close()
    return found


def used_bytes(disk, path):
    if not path.endswith(".seg"):
        return len(disk.content(path))
    name = path.rpartition("/")[2]
    return max(
        (b["offset"] + b["bytes"] for b in dump("/store", disk) if b["segment"] == name), default=0
    )


def test_an_untouched_store_verifies():
    disk = small_store()
    report = verify("/store", disk)
    assert report.damage == []
    assert report.batch_count == 4 and report.message_count == 9
    assert report.segment_count == 1 and report.checkpoint_count == 2
    assert stat("/store", disk)["messages"] == 12


@pytest.mark.parametrize("mask", [0xFF, 0x01])
def test_every_flipped_byte_is_found_or_harmless(mask):
    disk = small_store()
    expected = content(small_store())
    harmless = found = 0
    for path in disk.paths():
        if path.endswith("reserve"):
            continue
        for offset in range(used_bytes(disk, path)):
            disk.flip(path, offset, mask)
            report = verify("/store", disk)
            if report.damage:
                found += 1
                assert str(report.damage[0]).startswith(report.damage[0].path)
            else:
                harmless += 1
                assert path.endswith(".seg"), f"{path} byte {offset} not found"
                if harmless % 50 == 0:
                    assert content_of_copy(disk) == expected
            disk.flip(path, offset, mask)
    # Harmless: the rest of the segment header's block, and the padding between batches.
    assert found > 1200 and harmless < 4096 + 4 * 64


def flips():
    """(path, offset) of every STRIDE-th byte in use."""
    disk = small_store()
    places = [
        (path, offset)
        for path in disk.paths()
        if not path.endswith("reserve")
        for offset in range(used_bytes(disk, path))
    ]
    return places[::STRIDE]


def harmed(path, offset):
    disk = small_store()
    disk.flip(path, offset)
    return disk


def test_a_start_serves_what_was_stored_or_names_the_damage():
    expected = content(small_store())
    refused = 0
    for path, offset in flips():
        disk = harmed(path, offset)
        try:
            assert content(disk) == expected, f"{path} byte {offset}"
        except StoreError as error:
            refused += 1
            assert "/store/" in str(error), error  # noqa: PT017 -- served whole is right too
            assert not path.endswith(".idx"), f"{path} byte {offset}: its segment is whole"
    assert refused > 300 // STRIDE


def test_salvage_keeps_all_that_is_intact_and_lists_the_rest():
    definitions, lanes = content(small_store())
    lost_count = 0
    for path, offset in flips():
        if path.endswith("/FORMAT"):
            continue
        disk = harmed(path, offset)
        report = salvage("/store", disk, DeadHost(), SMALL)
        found_definitions, found = content(disk)
        assert found_definitions == definitions or report.damage or report.missing_batches
        listed = {
            (loss.lane, p) for loss in report.losses for p in range(loss.first, loss.last + 1)
        }
        for lane, rows, there in zip((1, 2), lanes, found, strict=True):
            assert set(there) <= set(rows), f"{path} byte {offset}: made up"
            missing = {(lane, row[0]) for row in rows if row not in there}
            assert missing <= listed or report.missing_batches, f"{path} byte {offset}"
            lost_count += len(missing)
        # Leases are not salvage's to touch.
        assert [d for d in verify("/store", disk).damage if "/lease/" not in d.path] == []
    assert lost_count


def content_of_copy(disk):
    copy = SimulatedDisk(1)
    copy._folders = set(disk._folders)
    for path in disk.paths():
        file = copy.create(path)
        file.write(0, [disk.content(path)])
    return content(copy)


def test_the_last_batch_damaged_after_a_clean_stop_stops_no_start_silently():
    """Trap 2, as far as a checkpoint knows of the batch."""
    disk = small_store()
    batches = list(dump("/store", disk))
    last = batches[-1]
    path = f"/store/segments/{last['segment']}"
    disk.flip(path, last["offset"] + 70)
    assert verify("/store", disk).damage
    stepped = Stepped(disk)
    with pytest.raises(StoreError):
        for lane in (1, 2):
            stepped.journal.read(lane, 0, 99, 10**6)
