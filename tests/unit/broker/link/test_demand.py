"""What is told to whom: shortest ways, none that lead back."""

from __future__ import annotations

import pytest

from broker.core.exchange import Binding, Exchange
from broker.link.demand import Entry, difference, local_entries, merged, restored, stored, wanted_by

A, B, C, D = (bytes([number]) * 16 for number in (1, 2, 3, 4))
KEY = ("k", "")


class Target:
    def __init__(self, name: str) -> None:
        self.name = name
        self.is_durable = True


def exchange(kind: str, *bound: tuple[str, str]) -> Exchange:
    made = Exchange(
        "ex", kind, is_durable=True, is_auto_delete=False, is_internal=False, arguments={}
    )
    for queue, key in bound:
        made.add(Binding(made, Target(queue), key, {}))  # type: ignore[arg-type]
    return made


def test_buffers_do_not_count_as_local():
    found = local_entries(exchange("topic", ("inbox", "a.#"), ("link.x", "b.#")), ["link.x"])
    assert list(found) == [("a.#", "")]


def test_keys_of_a_fanout_are_one():
    found = local_entries(exchange("fanout", ("one", "x"), ("two", "y")), [])
    assert list(found) == [("", "")]


def test_own_wants_have_the_shortest_path():
    told = {C: {KEY: Entry({}, (C,))}}
    assert wanted_by({KEY: Entry({}, ())}, told, B, A, 16)[KEY].path == (B,)
    assert wanted_by({}, told, B, A, 16)[KEY].path == (B, C)


def test_what_leads_back_is_not_told():
    assert wanted_by({}, {A: {KEY: Entry({}, (A,))}}, B, A, 16) == {}
    assert wanted_by({}, {C: {KEY: Entry({}, (C, A))}}, B, A, 16) == {}
    assert wanted_by({}, {C: {KEY: Entry({}, (C, B))}}, B, A, 16) == {}


def test_hops_are_bounded():
    told = {C: {KEY: Entry({}, (C, D))}}
    assert KEY in wanted_by({}, told, B, A, 3)
    assert wanted_by({}, told, B, A, 2) == {}


def test_differences_carry_what_changed():
    before = {KEY: Entry({}, (A,)), ("gone", ""): Entry({}, (A,))}
    after = {KEY: Entry({}, (A, B)), ("new", ""): Entry({"x-match": "any"}, (A,))}
    assert merged(before, difference(before, after)) == after
    assert difference(after, after) == ([], [])
    assert restored(stored(after)) == after


@pytest.mark.parametrize(
    "change",
    [([["k", "", {}, ["no bytes"]]], []), ([[1, "", {}, []]], []), ([["k", "", 5, []]], [])],
)
def test_senseless_changes(change):
    with pytest.raises((TypeError, ValueError)):
        merged({}, change)
