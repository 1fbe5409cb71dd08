"""Files that appear whole, with their names on disk."""

from __future__ import annotations

import os

import pytest

from agents import durable


@pytest.fixture
def synced(monkeypatch):
    """What was synced, in order: `file` or the folder's name."""
    log = []
    real = os.fsync

    def fsync(descriptor):
        log.append(os.readlink(f"/proc/self/fd/{descriptor}").rsplit("/", 1)[-1])
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return log


def test_a_new_folder_and_its_parents_have_durable_names(tmp_path, synced):
    durable.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path.name, "a"]
    durable.make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_file_is_synced_before_it_gets_its_name(tmp_path, synced):
    durable.write_file(tmp_path / "x.json", b"1")
    assert synced == ["x.json.tmp"]
    assert os.listdir(tmp_path) == ["x.json"]
    durable.sync_folder(tmp_path)
    assert synced[-1] == tmp_path.name


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    durable.write_file(tmp_path / "x", b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write_file(tmp_path / "x", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"old")]


def test_bytes_that_are_no_text_are_shown_in_base64():
    assert durable.shown("body", "ü".encode()) == {"body": "ü"}
    assert durable.shown("body", b"\xff") == {"body-base64": "/w=="}
