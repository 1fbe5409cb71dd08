from __future__ import annotations

import errno
import os

import pytest

from agents.errors import AgentError, SpoolFull
from agents.outbox import Outbox

HEADERS = {"content-type": "application/json"}


def opened(folder, bytes_max=1_000_000, files_max=100):
    return Outbox(folder, bytes_max, files_max)


def drained(outbox):
    found = []
    while (batch := outbox.oldest()) is not None:
        found.append((batch.destination, batch.headers, batch.bodies))
        outbox.remove(batch)
    return found


def test_batches_come_back_in_order_also_after_a_restart(tmp_path):
    outbox = opened(tmp_path)
    outbox.put("/a", HEADERS, [b"1", b"\x00\xff"])
    outbox.put("/b", {}, [b"2"])
    outbox.close()
    again = opened(tmp_path)
    again.put("/c", {}, [b"3"])
    assert again.file_count == 3
    assert drained(again) == [
        ("/a", HEADERS, [b"1", b"\x00\xff"]),
        ("/b", {}, [b"2"]),
        ("/c", {}, [b"3"]),
    ]
    assert (again.file_count, again.byte_count) == (0, 0)
    assert not list(tmp_path.glob("*.spool"))


def test_a_batch_stays_until_it_is_removed(tmp_path):
    outbox = opened(tmp_path)
    outbox.put("/a", {}, [b"1"])
    assert outbox.oldest().bodies == [b"1"]
    assert outbox.oldest().bodies == [b"1"]


def test_order_goes_on_after_everything_was_drained(tmp_path):
    outbox = opened(tmp_path)
    for body in (b"1", b"2"):
        outbox.put("/a", {}, [body])
        first = outbox.oldest().number
        drained(outbox)
    assert first == 2


def test_bounds_in_files_and_bytes(tmp_path):
    outbox = opened(tmp_path, bytes_max=200, files_max=2)
    with pytest.raises(SpoolFull, match="bound"):
        outbox.put("/a", {}, [b"x" * 300])
    outbox.put("/a", {}, [b"1"])
    outbox.put("/a", {}, [b"2"])
    with pytest.raises(SpoolFull, match="2 files"):
        outbox.put("/a", {}, [b"3"])
    assert [bodies for _, _, bodies in drained(outbox)] == [[b"1"], [b"2"]]


def test_a_full_disk_keeps_nothing_and_says_so(tmp_path, monkeypatch):
    outbox = opened(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SpoolFull, match="No space left"):
            outbox.put("/a", {}, [b"1"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]
    outbox.put("/a", {}, [b"2"])
    assert [bodies for _, _, bodies in drained(outbox)] == [[b"2"]]


@pytest.mark.parametrize("damage", [b"", b"gmspool1", b"x" * 100])
def test_a_damaged_file_is_set_aside(tmp_path, damage):
    outbox = opened(tmp_path)
    outbox.put("/a", {}, [b"1"])
    outbox.put("/a", {}, [b"2"])
    first = min(tmp_path.glob("*.spool"))
    first.write_bytes(damage)
    assert [bodies for _, _, bodies in drained(outbox)] == [[b"2"]]
    assert (tmp_path / "damaged" / first.name).read_bytes() == damage
    assert outbox.byte_count == 0


def test_leftovers_of_a_crash_are_not_taken_for_batches(tmp_path):
    (tmp_path / "00000000000000000009.tmp").write_bytes(b"half")
    assert opened(tmp_path).oldest() is None


def test_one_process_a_folder(tmp_path):
    first = opened(tmp_path)
    with pytest.raises(AgentError, match="another process"):
        opened(tmp_path)
    first.close()
    opened(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentError, match="cannot use the spool folder"):
        opened(tmp_path / "file")
