"""Random work on a simulated disk, a crash at any call, and the store must be a prefix of what was committed."""

import errno

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.errors import StoreError
from tests.support.disk import Crashed, SimulatedDisk
from tests.support.store_drive import SMALL, Stepped
from tests.support.store_work import COMPACTING, Work, find_commit, work_on

ROUNDS = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)


def offset_commits(stepped, base):
    return base + (stepped.box.durable[-1] if stepped.box.durable else 0)


@given(
    seed=st.integers(0, 2**32),
    crashes=st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=4),
    limits=st.sampled_from([SMALL, COMPACTING]),
)
@ROUNDS
def test_after_a_crash_at_any_call_the_store_is_a_prefix_with_all_that_was_durable(
    seed, crashes, limits
):
    disk = SimulatedDisk(seed)
    work = Work(disk.random)
    base = 0
    for crash_after, is_kill in [*crashes, (None, False)]:
        stepped = None
        durable = base
        disk.crash_at = None if crash_after is None else disk.call_count + crash_after
        try:
            stepped = Stepped(disk, settings=limits)
            disk_at, disk.crash_at = disk.crash_at, None
            base = find_commit(work, stepped, durable)
            work.adopt(base, stepped.recovered)
            disk.crash_at = disk_at
            work_on(stepped, work, 60, disk.random)
            stepped.settle()
            if crash_after is None:
                stepped.journal.close()
        except (Crashed, StoreError) as error:
            assert disk.is_dead, repr(error)  # noqa: PT017 -- both ways out are right
        if stepped is not None:
            assert stepped.box.durable == sorted(set(stepped.box.durable))
            base = max(base, offset_commits(stepped, base))
        if is_kill:
            disk.kill()
        else:
            disk.crash()
    stepped = Stepped(disk, settings=limits)
    commit = find_commit(work, stepped, len(work.history) - 1)
    assert commit == len(work.history) - 1


@given(seed=st.integers(0, 2**32), fail_after=st.integers(1, 200), is_write=st.booleans())
@ROUNDS
def test_after_a_failed_write_or_sync_nothing_becomes_durable_any_more(seed, fail_after, is_write):
    disk = SimulatedDisk(seed)
    work = Work(disk.random)
    stepped = Stepped(disk)
    start = disk.call_count
    failed_at = []

    def fail(name, count):
        if name == ("write" if is_write else "sync") and count >= start + fail_after:
            if not failed_at:
                failed_at.append(len(stepped.box.durable))
                raise OSError(errno.EIO, "Input/output error")
            assert name != "sync" or not stepped.box.failed, "a sync after a failure"

    disk.before_call = fail
    work_on(stepped, work, 80, disk.random)
    stepped.settle()
    if not failed_at:
        return
    assert len(stepped.box.failed) == 1
    told = list(stepped.box.durable)
    for _ in range(5):
        stepped.journal.commit(work.unit())
        stepped.settle()
    assert stepped.box.durable == told and len(stepped.box.failed) == 1
    disk.crash()
    again = Stepped(disk)
    find_commit(work, again, told[-1] if told else 0)
