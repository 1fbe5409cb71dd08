"""ISO 8601 durations as probes write them, in seconds (gracc.md 1.2).

A year counts 365 days and a month 30, only seconds may have a fraction, what cannot be read is 0: so the numbers,
and with them the checksums, equal those of the reference collector.
Tests: tests/unit/agents/records/test_duration.py, tests/property/test_records.py.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Final

_WEEKS: Final = re.compile(r"P(\d{1,9})W", re.ASCII)
_FULL: Final = re.compile(
    r"P(?:(\d{1,9})Y)?(?:(\d{1,9})M)?(?:(\d{1,9})D)?"
    r"(?:T(?:(\d{1,15})H)?(?:(\d{1,15})M)?(?:(\d{1,15})(\.\d+)?S)?)?",
    re.ASCII,
)
_DAY_SECONDS: Final = 86_400
SECONDS_MAX: Final = 9_223_372_036
"""The longest time the reference collector can hold (nanoseconds in 63 bits); longer counts as unreadable."""


@lru_cache(maxsize=4096)
def duration_seconds(text: str) -> int | float:
    """Return the seconds of a duration found anywhere in `text`: an int where they are whole, 0 if unreadable."""
    match = _WEEKS.search(text)
    if match is not None:
        return _bounded(int(match[1]) * 7 * _DAY_SECONDS)
    match = _FULL.search(text)
    if match is None:
        return 0
    years, months, days, hours, minutes, seconds, fraction = match.groups()
    total = 0
    if minutes:
        total += int(minutes) * 60
    if hours:
        total += int(hours) * 3600
    if days:
        total += int(days) * _DAY_SECONDS
    if months:
        total += int(months) * 30 * _DAY_SECONDS
    if years:
        total += int(years) * 365 * _DAY_SECONDS
    if fraction is None:
        return _bounded(total + int(seconds or 0))
    # The reference takes the fraction off the float and cuts it at nanoseconds, so that PT40.26S is 40.259999999:
    # stored records show it, and the checksum covers it.
    part, full = math.modf(float(seconds + fraction))
    nanoseconds = int(part * 1e9)
    total = _bounded(total + int(full))
    return total + nanoseconds / 1e9 if nanoseconds and total < SECONDS_MAX else total


def whole(seconds: float) -> int | float:
    """Return a number of seconds as an int where it is whole, as it goes into JSON."""
    return int(seconds) if seconds == int(seconds) else seconds


def _bounded(seconds: int) -> int:
    return seconds if seconds <= SECONDS_MAX else 0
