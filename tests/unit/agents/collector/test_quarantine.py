from __future__ import annotations

import base64
import errno
import json
import os

import pytest

from agents.collector.quarantine import Quarantine, Rejected
from agents.errors import SpoolFull


def test_reason_and_original_are_kept(tmp_path):
    quarantine = Quarantine(tmp_path / "q", 10)
    quarantine.keep(
        [Rejected("é".encode(), "why"), Rejected(b"\xff", "bytes")], "probe:x", "update"
    )
    contents = [json.loads(path.read_text()) for path in (tmp_path / "q").glob("*.json")]
    by_reason = {content["reason"]: content for content in contents}
    assert by_reason["why"]["original"] == "é" and by_reason["why"]["from"] == "probe:x"
    assert base64.b64decode(by_reason["bytes"]["original-base64"]) == b"\xff"


def test_the_same_record_again_is_one_file(tmp_path):
    quarantine = Quarantine(tmp_path, 1)
    for _ in range(3):
        quarantine.keep([Rejected(b"a", "why")], "x", "update")
    assert quarantine.file_count == 1 == Quarantine(tmp_path, 1).file_count


def test_full_is_said_and_nothing_deleted(tmp_path):
    quarantine = Quarantine(tmp_path, 1)
    quarantine.keep([Rejected(b"a", "why")], "x", "update")
    with pytest.raises(SpoolFull, match="bound"):
        quarantine.keep([Rejected(b"b", "why")], "x", "update")
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    quarantine = Quarantine(tmp_path, 9)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpoolFull, match="No space left"):
        quarantine.keep([Rejected(b"b", "why")], "x", "update")
