from __future__ import annotations

import pytest

from broker.session import fairness
from broker.session.fairness import FairQueue


class Thread:
    """Runs one piece of work when the test says so."""

    def __init__(self):
        self.now = []
        self.said = []
        self.queue = FairQueue(lambda work, done: self.now.append((work, done)))

    def add(self, source, name):
        self.queue.add(
            source,
            lambda: name.startswith("good"),
            lambda result: self.said.append((name, result)),
            lambda: self.said.append((name, "refused")),
        )

    def run(self):
        while self.now:
            assert len(self.now) == 1, "one at a time"
            work, done = self.now.pop()
            done(work())
        said, self.said = self.said, []
        return said


def test_results_come_back_in_order():
    thread = Thread()
    for name in ("good 1", "bad 2", "good 3"):
        thread.add("a", name)
    assert thread.run() == [("good 1", True), ("bad 2", False), ("good 3", True)]
    thread.add("a", "good 4")
    assert thread.run() == [("good 4", True)]


def test_sources_take_turns():
    thread = Thread()
    for number in range(4):
        thread.add("many", f"many {number}")
    thread.add("one", "good one")
    thread.add("two", "good two")
    names = [name for name, _ in thread.run()]
    assert names == ["many 0", "many 1", "good one", "good two", "many 2", "many 3"]


def test_the_source_with_the_most_gives_way(monkeypatch):
    monkeypatch.setattr(fairness, "CHECKS_WAITING_MAX", 4)
    thread = Thread()
    for number in range(7):
        thread.add("many", f"many {number}")
    assert thread.said == [("many 5", "refused"), ("many 6", "refused")]
    for number in range(3):
        thread.add("other", f"other {number}")
    # Two of each now: "other" may not take more than "many" has.
    assert thread.said[2:] == [
        ("many 4", "refused"), ("many 3", "refused"), ("other 2", "refused")
    ]  # fmt: skip
    thread.said.clear()
    names = [name for name, _ in thread.run()]
    assert names == ["many 0", "many 1", "other 0", "many 2", "other 1"]


def test_work_asked_for_while_a_result_is_told_waits_its_turn():
    thread = Thread()
    thread.queue.add("a", lambda: True, lambda _: thread.add("a", "good inner"), lambda: None)
    thread.add("b", "good other")
    assert [name for name, _ in thread.run()] == ["good other", "good inner"]


def test_a_result_that_fails_does_not_stop_the_queue():
    thread = Thread()

    def broken(_):
        raise RuntimeError("a session failed")

    thread.queue.add("a", lambda: True, broken, lambda: None)
    thread.add("a", "good next")
    work, done = thread.now.pop()
    with pytest.raises(RuntimeError):
        done(work())
    assert thread.run() == [("good next", True)]
