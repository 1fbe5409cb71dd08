"""bench.accounting: what it sends is what a probe would, each record once."""

from __future__ import annotations

from agents.collector.intake import take_form
from bench.accounting import bundles


def test_every_record_is_good_and_differs():
    forms = list(bundles(25, 10, seed=3))
    assert len(forms) == 3
    taken = [take_form(b"", form, 1 << 20) for form in forms]
    assert [len(one.bodies) for one in taken] == [10, 10, 5]
    assert not any(one.rejected for one in taken)
    assert len({body for one in taken for body in one.bodies}) == 25
    assert list(bundles(25, 10, seed=3)) == forms
