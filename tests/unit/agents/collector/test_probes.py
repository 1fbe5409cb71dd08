from __future__ import annotations

from agents.collector.intake import Intake
from agents.collector.probes import ProbeBook, backlog_records


def said(name, **backlog):
    intake = Intake(name, "update")
    intake.bodies = [b"1", b"2"]
    intake.backlog = backlog
    return intake


def test_last_word_and_sums_survive_a_restart(tmp_path):
    path = tmp_path / "probes.json"
    book = ProbeBook(path, 10)
    book.note(said("a", xmlfiles=3, tarfiles=2, maxpendingfiles=100), 10.0)
    book.note(said("a"), 20.0)
    content = book.snapshot()
    book.save(content)
    assert book.snapshot() is None
    state = ProbeBook(path, 10).probes["a"]
    assert (state.first_seen_s, state.last_seen_s, state.post_count) == (10.0, 20.0, 2)
    assert (state.record_count, state.backlog_records) == (4, 203)


def test_the_longest_silent_is_forgotten_first(tmp_path):
    book = ProbeBook(tmp_path / "p.json", 2)
    for name in ("a", "b", "a", "c"):
        book.note(said(name), 1.0)
    assert list(book.probes) == ["a", "c"]


def test_unnamed_senders_are_not_noted(tmp_path):
    book = ProbeBook(tmp_path / "p.json", 2)
    book.note(said(""), 1.0)
    assert not book.probes and book.snapshot() is None


def test_an_unreadable_file_is_set_aside(tmp_path):
    path = tmp_path / "p.json"
    path.write_text("{half")
    assert not ProbeBook(path, 2).probes
    assert (tmp_path / "p.unreadable").read_text() == "{half"


def test_backlog_counts_what_is_packed():
    assert backlog_records({}) == 0
    assert backlog_records({"xmlfiles": 5, "tarfiles": 2}) == 5
