from __future__ import annotations

import logging

import pytest

from broker.cli import flood
from broker.cli.flood import LINES_MAX, WINDOW_SECONDS, LineBudget


class Clock:
    seconds = 100.0

    def now(self):
        return self.seconds

    def wall_ms(self):
        return 0


class Log(logging.Handler):
    """A logger with a budget, and what it has written."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.lines = []
        self.addFilter(LineBudget(self.clock))
        self.logger = logging.Logger("flood")  # noqa: LOG001 - not to be found by others
        self.logger.addHandler(self)

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def log():
    return Log()


def test_a_flood_is_counted_and_told(log):
    for number in range(1000):
        log.clock.seconds = 100 + (number > 600) * WINDOW_SECONDS
        log.logger.warning("refused %d", number)
    assert log.lines[: LINES_MAX + 1] == [
        *(f"refused {number}" for number in range(LINES_MAX)),
        f"refused 601 (before it {601 - LINES_MAX} lines like it were left out)",
    ]
    assert len(log.lines) == 2 * LINES_MAX


def test_other_lines_are_not_left_out(log):
    for number in range(1000):
        log.logger.warning("refused %d", number)
    log.logger.warning("another")
    log.logger.info("and another")
    assert log.lines[-2:] == ["another", "and another"]


def test_errors_are_always_written(log):
    for number in range(1000):
        log.logger.error("failed %d", number)
    assert len(log.lines) == 1000


def test_few_lines_now_and_then_are_all_written(log):
    for number in range(1000):
        log.clock.seconds += 1
        log.logger.warning("refused %d", number)
    assert len(log.lines) == 1000


def test_kinds_are_bounded(log, monkeypatch):
    monkeypatch.setattr(flood, "KINDS_MAX", 3)
    (budget,) = log.filters
    for number in range(10):
        record = log.logger.makeRecord("flood", logging.WARNING, "file.py", number, "x", (), None)
        assert budget.filter(record)
        assert len(budget._kinds) <= 3
