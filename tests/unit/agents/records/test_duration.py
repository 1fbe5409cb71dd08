from __future__ import annotations

import pytest

from agents.records.duration import SECONDS_MAX, duration_seconds, whole


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT0S", 0),
        ("PT1M5.32S", 65.32),
        ("PT23M15.0S", 1395),
        ("P1DT7H58M10.0S", 115090),
        ("P3DT18H41M59.0S", 326519),
        ("P1Y", 31_536_000),
        ("P1M", 2_592_000),
        ("PT1M", 60),
        ("P2W", 1_209_600),
        ("xxPT5Syy", 5),
        ("PT0.1S", 0.1),
        ("PT0.29S", 0.29),
        ("PT0.57S", 0.57),
        ("PT1M5.17S", 65.169999999),
        ("PT3M40.26S", 220.259999999),
        ("PT1.0000000001S", 1),
        ("", 0),
        ("3600", 0),
        ("-PT5S", 5),
        ("PT1.5H", 0),
        ("PT", 0),
        ("P99999999999Y", 0),
        (f"PT{SECONDS_MAX}S", SECONDS_MAX),
        (f"PT{SECONDS_MAX + 1}S", 0),
        ("PT٥S", 0),
    ],
)
def test_seconds(text, seconds):
    found = duration_seconds(text)
    assert found == seconds and type(found) is type(seconds)


def test_whole_numbers_are_ints_on_the_wire():
    assert repr(whole(3.0)) == "3" and repr(whole(3.5)) == "3.5"
