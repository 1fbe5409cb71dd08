from __future__ import annotations

import random

import pytest

from bench.lab.ledger import PAGE_BITS, Bits, Promised, Seen, Verdict


def bits_of(*ranges):
    found = Bits()
    for first, stop in ranges:
        found.add_range(first, stop)
    return found


def test_bits_are_a_set_of_numbers():
    chance = random.Random(5)
    model: set[int] = set()
    bits = Bits()
    for _ in range(40):
        first = chance.randrange(2 * PAGE_BITS)
        stop = first + chance.choice([1, 2, 50, PAGE_BITS + 7])
        known = bits.add_range(first, stop)
        assert known == len(model & set(range(first, stop)))
        model |= set(range(first, stop))
        gone = chance.randrange(4 * PAGE_BITS)
        assert bits.discard(gone) is (gone in model)
        model.discard(gone)
    assert len(bits) == len(model)
    wanted = set(range(4 * PAGE_BITS)) - model
    missing = bits.missing(0, 4 * PAGE_BITS)
    assert {one for first, stop in missing for one in range(first, stop)} == wanted
    assert all(a[1] < b[0] for a, b in zip(missing, missing[1:], strict=False)), "ranges are joined"


def test_bits_survive_their_text():
    bits = bits_of((0, 100_000), (100_001, 100_002))
    again = Bits.load(bits.dump())
    assert len(again) == 100_001
    assert again.missing(0, 100_002) == [(100_000, 100_001)]
    assert len(bits.dump()) < 500


def test_seven_million_messages_take_little_room():
    bits = Bits()
    for first in range(0, 7_000_000, 100_000):
        bits.add_range(first, first + 100_000)
    assert len(set(map(id, bits._pages.values()))) < 20, "full pages share one object"


def test_sets_can_be_merged():
    one = bits_of((0, 10))
    assert one.merge(bits_of((5, 15))) == 5
    assert len(one) == 15


def test_a_second_arrival_is_a_double():
    seen = Seen()
    seen.note(0, 10, 1.0)
    seen.note(4, 6, 2.0)
    assert (seen.unique_count, seen.doubled_count, seen.repeat_count) == (10, 2, 0)


def test_a_second_arrival_after_a_lost_connection_is_a_repeat_once():
    seen = Seen()
    seen.note(0, 10, 1.0)
    seen.lose_connection()
    seen.note(5, 10, 1.5)
    assert (seen.doubled_count, seen.repeat_count) == (0, 5)
    seen.note(5, 10, 1.6)
    assert (seen.doubled_count, seen.repeat_count) == (5, 5)


def test_what_came_long_before_a_lost_connection_was_acknowledged():
    seen = Seen()
    seen.note(0, 5, 1.0)
    seen.note(5, 10, 60.0)
    seen.lose_connection()
    seen.note(0, 10, 61.0)
    assert (seen.doubled_count, seen.repeat_count) == (5, 5)


def test_order_is_of_first_arrivals():
    seen = Seen()
    seen.note(0, 5, 1.0)
    seen.note(7, 9, 1.0)
    seen.note(5, 7, 1.0)
    assert seen.disordered_count == 2
    seen.note(9, 12, 1.0)
    assert (seen.disordered_count, seen.doubled_count) == (2, 0)


def test_repeats_and_news_in_one_run_are_not_out_of_order():
    seen = Seen()
    seen.note(0, 5, 1.0)
    seen.lose_connection()
    seen.note(3, 9, 1.0)
    assert (seen.unique_count, seen.repeat_count, seen.disordered_count) == (9, 2, 0)


def test_confirms_come_in_runs_and_singly():
    promised = Promised()
    promised.send(10)
    promised.confirm(3, is_multiple=True)
    promised.confirm(6, is_multiple=False)
    assert promised.unconfirmed_count == 5
    promised.confirm(5, is_multiple=True)
    assert (promised.low, promised.unconfirmed_count) == (7, 3)
    promised.confirm(2, is_multiple=True)
    assert promised.low == 7, "an old confirm changes nothing"


def test_what_is_refused_is_told_apart():
    promised = Promised()
    promised.send(6)
    promised.confirm(3, is_multiple=False)
    promised.refuse(4, is_multiple=True)
    assert promised.refused == [(0, 1), (1, 2), (2, 3), (4, 5)]
    assert promised.unconfirmed_count == 1


def test_what_was_not_answered_when_the_connection_broke_is_in_doubt():
    promised = Promised()
    promised.send(6)
    promised.confirm(1, is_multiple=True)
    promised.confirm(3, is_multiple=False)
    promised.lose_connection()
    assert promised.doubt == [(2, 3), (4, 6)]
    assert promised.unconfirmed_count == 0
    assert promised.send(1) == 6


def verdict(sent, doubt=(), refused=(), waiting=(), seen=None):
    promised = {"sent": sent, "doubt": doubt, "refused": refused, "waiting": waiting}
    return Verdict(promised, None if seen is None else seen.as_dict())


def test_the_verdict_names_what_was_confirmed_and_never_came():
    seen = Seen()
    for first, stop in ((0, 10), (20, 30)):
        seen.note(first, stop, 1.0)
    found = verdict(31, doubt=[(12, 15), (29, 31)], seen=seen)
    assert found.lost == 7
    assert found.lost_ranges == [(10, 12), (15, 20)]
    assert (found.in_doubt, found.doubt_arrived, found.confirmed) == (5, 1, 26)
    assert not found.is_whole


def test_nothing_arrived_and_nothing_was_sent():
    assert verdict(0).is_whole
    assert verdict(5).lost == 5
    assert verdict(5, waiting=[(0, 5)]).lost == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_verdict_agrees_with_plain_sets(seed):
    chance = random.Random(seed)
    sent = chance.randrange(1, 400)
    doubt = {one for one in range(sent) if chance.random() < 0.1}
    came = {one for one in range(sent) if chance.random() < 0.8}
    seen = Seen()
    for one in came:
        seen.note(one, one + 1, 1.0)
    found = verdict(sent, doubt=[(one, one + 1) for one in sorted(doubt)], seen=seen)
    assert found.lost == len(set(range(sent)) - doubt - came)
    assert found.doubt_arrived == len(doubt & came)
    assert found.confirmed == sent - len(doubt)
