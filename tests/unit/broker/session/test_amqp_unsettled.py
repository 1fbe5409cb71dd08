"""Delivery tags: what they name, and that settling costs nothing by the age of the channel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from broker.errors import PreconditionFailed
from broker.session.amqp_unsettled import Unsettled


def delivery(name: str, *, is_consumed: bool = True) -> Any:
    return SimpleNamespace(name=name, subscription="a consumer" if is_consumed else None)


def names(taken: list[tuple[int, Any]]) -> str:
    return "".join(f"{tag}{one.name}" for tag, one in taken)


def handed_out(text: str) -> Unsettled:
    unsettled = Unsettled()
    unsettled.hand_out([delivery(one) for one in text], is_acknowledged=True)
    return unsettled


def test_tags_go_on_where_nothing_is_acknowledged() -> None:
    unsettled = handed_out("ab")
    assert unsettled.hand_out([delivery("c")], is_acknowledged=False) == 2
    assert unsettled.hand_out([delivery("d")], is_acknowledged=True) == 3
    assert names(unsettled.take(0, True)) == "1a2b4d"
    assert unsettled.last_tag == 4


@pytest.mark.parametrize(("tag", "multiple"), [(0, False), (2, False), (2, True), (5, True)])
def test_a_tag_that_names_nothing_is_refused(tag: int, multiple: bool) -> None:
    unsettled = handed_out("abc")
    unsettled.take(2, False)
    with pytest.raises(PreconditionFailed, match=f"unknown delivery tag {tag}$"):
        unsettled.take(tag, multiple)
    assert sorted(unsettled.deliveries) == [1, 3], "nothing is taken"


def test_all_up_to_a_tag_in_order_also_behind_a_long_gap() -> None:
    unsettled = handed_out("x" * 100)
    for tag in range(1, 98):
        unsettled.take(tag, False)
    assert names(unsettled.take(99, True)) == "98x99x"
    assert names(unsettled.take(0, True)) == "100x"
    assert unsettled.take(0, True) == []


def test_a_rolled_back_settlement_is_found_again_by_the_next_multiple() -> None:
    unsettled = handed_out("abcd")
    taken = unsettled.take(3, True)
    unsettled.put_back(taken)
    assert names(unsettled.take(2, True)) == "1a2b"
    assert [one.name for one in unsettled.take_all()] == ["c", "d"]
    assert not unsettled.deliveries


def test_only_consumers_deliveries_count_for_the_prefetch() -> None:
    unsettled = handed_out("ab")
    unsettled.hand_out([delivery("g", is_consumed=False)], is_acknowledged=True)
    assert unsettled.consumed_count() == 2
    unsettled.forget(1)
    assert unsettled.consumed_count() == 1
