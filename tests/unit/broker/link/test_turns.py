"""Whose turn it is: nobody waits for another's backlog, and who was served last comes last."""

from __future__ import annotations

from broker.link.turns import Turns


def served(turns: Turns, left: dict[str, int], left_bytes: float) -> str:
    order: list[str] = []

    def take(name: str) -> int | None:
        if not left[name]:
            return None
        left[name] -= 1
        order.append(name)
        return 10

    turns.serve(list(left), left_bytes, take)
    return "".join(order)


def test_streams_are_served_round_and_round_until_nobody_has_anything() -> None:
    left = {"a": 3, "b": 1, "c": 2}
    assert served(Turns(), left, 1000) == "bcacaa"
    assert not any(left.values())


def test_the_next_call_goes_on_where_the_last_one_stopped() -> None:
    turns, left = Turns(), {"a": 9, "b": 9, "c": 9}
    assert served(turns, left, 25) == "bca"
    assert served(turns, left, 15) == "bc"
    assert served(turns, left, 1) == "a"


def test_nothing_is_asked_where_nothing_may_go() -> None:
    left = {"a": 1}
    assert served(Turns(), left, 0) == ""
    assert served(Turns(), {}, 100) == ""
    assert left == {"a": 1}


def test_a_batch_without_bytes_is_no_idling() -> None:
    sizes = iter([0, 0, 5, None, None, None])
    asked: list[int] = []

    def take(number: int) -> int | None:
        asked.append(number)
        return next(sizes)

    Turns().serve([0, 1, 2], 100, take)
    assert asked == [1, 2, 0, 1, 2, 0]
