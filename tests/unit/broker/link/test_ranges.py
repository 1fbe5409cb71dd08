"""Ranges against a plain set."""

from __future__ import annotations

import random

import pytest

from broker.link.ranges import Ranges, flat_of


@pytest.mark.parametrize("seed", range(10))
def test_ranges_are_a_set(seed):
    draw = random.Random(seed)
    ranges, model = Ranges(), set()
    for _ in range(120):
        first = draw.randrange(60)
        end = first + draw.randrange(1, 9)
        if draw.random() < 0.6:
            ranges.add(first, end)
            model.update(range(first, end))
        else:
            ranges.remove(first, end)
            model.difference_update(range(first, end))
        assert list(ranges) == sorted(model)
        assert len(ranges) == len(model)
        assert bool(ranges) == bool(model)
    assert [number in ranges for number in range(70)] == [number in model for number in range(70)]
    assert list(Ranges(ranges.flat())) == sorted(model)
    assert all(end > first for first, end in ranges.pairs())
    starts = [first for first, _ in ranges.pairs()]
    ends = [end for _, end in ranges.pairs()]
    assert all(start > end for start, end in zip(starts[1:], ends, strict=False)), "runs touch"


def test_flat_of_folds_runs():
    assert flat_of([1, 2, 3, 7, 9, 10]) == [1, 3, 7, 1, 9, 2]
    assert flat_of([]) == []
    assert "x" not in Ranges([1, 2])
