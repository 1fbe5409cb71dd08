from __future__ import annotations

from bench.lab.series import Series, rates


def test_rows_become_columns():
    series = Series("a", "b")
    series.add(0.5, 1, 2)
    assert series.as_dict() == {"t": [0.5], "a": [1], "b": [2]}
    assert (series.last("b"), Series("a").last("a")) == (2, 0.0)


def test_a_long_run_keeps_few_rows_from_all_of_its_time():
    series = Series("a", rows_max=100)
    for second in range(10_000):
        series.add(second, second * 2)
    columns = series.as_dict()
    assert 50 <= len(columns["t"]) <= 100
    assert columns["t"] == sorted(columns["t"])
    assert columns["t"][-1] > 9_800
    assert columns["t"][0] < 300
    assert columns["a"] == [2 * one for one in columns["t"]]


def test_rates_are_between_neighbours():
    assert rates([0, 1, 3, 3], [0, 10, 30, 30]) == [0.0, 10.0, 10.0, 0.0]
    assert rates([], []) == []
