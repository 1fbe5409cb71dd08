"""When publishers wait, and when a checkpoint is due."""

import pytest

from store.pressure import Pressure
from store.settings import StoreSettings


def pressure():
    return Pressure(
        StoreSettings(
            checkpoint_bytes=100,
            checkpoint_records=10,
            waiting_bytes=1000,
            free_bytes_min=50,
            free_bytes_resume=80,
        )
    )


@pytest.mark.parametrize("cost", [(100, 1), (1, 10)])
def test_debt_makes_a_checkpoint_due_and_twice_the_debt_blocks(cost):
    made = pressure()
    made.add(*cost)
    assert made.is_checkpoint_due and not made.blocks(is_blocked=False, waiting_bytes=0)
    made.add(*cost)
    assert made.blocks(is_blocked=False, waiting_bytes=0)
    made.subtract(*cost)
    assert made.blocks(is_blocked=True, waiting_bytes=0), "until one interval is paid back"
    made.subtract(*cost)
    assert not made.blocks(is_blocked=True, waiting_bytes=0)


def test_units_that_wait_for_the_disk_block_at_their_bound_and_go_on_at_half():
    made = pressure()
    assert not made.blocks(is_blocked=False, waiting_bytes=1000)
    assert made.blocks(is_blocked=False, waiting_bytes=1001)
    assert made.blocks(is_blocked=True, waiting_bytes=501)
    assert not made.blocks(is_blocked=True, waiting_bytes=500)


def test_space_has_two_marks():
    made = pressure()
    assert not made.look(50, is_short=False)
    assert made.look(49, is_short=False) and made.is_space_low
    assert not made.look(79, is_short=False) and made.look(80, is_short=False)
    assert made.look(10**9, is_short=True) and made.blocks(is_blocked=False, waiting_bytes=0)


def test_the_reason_is_told_with_its_figures():
    made = pressure()
    made.add(3 << 20, 7)
    assert made.reason(0) == "3 MiB, 7 records of journal wait for a checkpoint"
    assert made.reason(5 << 20) == "5 MiB wait for the disk"
    made.look(1, is_short=False)
    assert made.reason(0) == "free space is low"
