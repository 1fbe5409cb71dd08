"""Whatever the guesses: waits and the table are bounded, a name is not guessed faster than its pace, and others never wait for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.session.guesses import (
    ADDRESS_PACE,
    NAME_PACE,
    WAIT_SECONDS_MAX,
    FailedLogins,
)

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "eve"]),
        st.floats(0, 40, allow_nan=False),
        st.booleans(),
    ),
    max_size=200,
)


@given(STEPS)
def test_waits_are_bounded_and_a_source_without_failures_never_waits(steps):
    failed = FailedLogins()
    now = 0.0
    for number, (name, pause_s, is_right) in enumerate(steps):
        now += pause_s
        wait_s = failed.wait_seconds("192.0.2.7", name, now)
        assert wait_s is None or 0 <= wait_s <= WAIT_SECONDS_MAX
        assert failed.wait_seconds("192.0.2.8", name, now) == 0
        if wait_s is not None:
            if is_right:
                failed.succeeded("192.0.2.7", name)
            else:
                failed.failed("192.0.2.7", name, b"%d" % number, now + wait_s)
        assert len(failed) <= 4


@given(st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=300))
def test_a_name_is_looked_at_no_faster_than_its_pace(pauses):
    """Guesses that all fail, begun at any times: in any ten minutes so many are looked at, and no more."""
    failed = FailedLogins()
    now = 0.0
    looks = []
    for number, pause_s in enumerate(pauses):
        now += pause_s
        wait_s = failed.wait_seconds("192.0.2.7", "ann", now)
        if wait_s is not None:
            looks.append(now + wait_s)
            failed.failed("192.0.2.7", "ann", b"%d" % number, now + wait_s)
    span_s = max(looks) - min(looks)
    forgotten = span_s / NAME_PACE.forget_seconds
    # Five free, a few while the wait doubles, then one in the longest wait, or as often as one is forgotten.
    doubling = 6
    most = NAME_PACE.free_count + doubling + forgotten + span_s / NAME_PACE.longest_seconds
    assert len(looks) <= most + 1


@given(st.integers(0, 2000))
def test_names_that_nobody_has_guessed_wait_for_the_address_only(count):
    failed = FailedLogins()
    for number in range(count):
        failed.failed("192.0.2.7", f"user {number}", b"x", 0.0)
    wait_s = failed.wait_seconds("192.0.2.7", "another", 0.0)
    assert wait_s is not None and wait_s <= ADDRESS_PACE.longest_seconds
