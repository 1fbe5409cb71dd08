"""The report of `bench recovery`: medians, ratios to the empty topology, table."""

from dataclasses import replace

from bench.broker_process import forget_cached, used_bytes
from bench.recovery import Start, queue_names, rows_of, table_of


def start(messages, seconds, killed="quiet", rss=60.0, beside=0):
    return Start(1, messages, killed, "warm", seconds - 0.1, seconds, 0.5, rss, rss + 1, beside)


def test_each_case_is_compared_with_the_same_one_without_messages():
    starts = [start(0, s, beside=10) for s in (0.5, 0.9, 0.6)]
    starts += [start(10, s, rss=70.0) for s in (0.7, 0.72)]
    starts += [start(0, 1.0, killed="in traffic", beside=10), start(10, 1.5, killed="in traffic")]
    rows = {(row["messages"], row["killed"]): row for row in rows_of(starts)}
    assert rows[0, "quiet"]["first_s"] == 0.6 and rows[0, "quiet"]["ratio"] == 1.0
    assert rows[10, "quiet"]["first_s"] == 0.71 and rows[10, "quiet"]["ratio"] == 1.18
    assert rows[10, "quiet"]["first_max_s"] == 0.72 and rows[10, "quiet"]["rss_mb"] == 70
    assert rows[10, "in traffic"]["ratio"] == 1.5


def test_the_ratio_is_to_the_empty_starts_of_the_same_time():
    starts = [start(0, 0.5, beside=10), start(10, 0.6), start(0, 2.0, beside=99), start(99, 2.2)]
    ratios = {row["messages"]: row["ratio"] for row in rows_of(starts)}
    assert ratios[10] == 1.2 and ratios[99] == 1.1


def test_the_table_is_markdown():
    lines = table_of(rows_of([start(0, 0.5)])).splitlines()
    assert lines[0].startswith("| broker | queues | messages | killed | cache |")
    assert len({line.count("|") for line in lines}) == 1


def test_names_of_queues_differ():
    assert len(set(queue_names(100))) == 100


def test_space_is_counted_and_pages_are_let_go(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(bytes(10_000))
    assert used_bytes(tmp_path) >= 10_000
    forget_cached(tmp_path)
    assert (tmp_path / "a" / "file").read_bytes() == bytes(10_000)


def test_a_peer_is_compared_with_its_own_empty_starts():
    starts = [start(0, 0.5), start(10, 0.6)]
    starts += [replace(start(0, 4.0), broker="other"), replace(start(10, 8.0), broker="other")]
    ratios = {(row["broker"], row["messages"]): row["ratio"] for row in rows_of(starts)}
    assert ratios["gridmsg", 10] == 1.2 and ratios["other", 10] == 2.0
