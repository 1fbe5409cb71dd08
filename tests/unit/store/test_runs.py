"""The table of runs against a plain list of them."""

from hypothesis import given
from hypothesis import strategies as st

from store.record import decode_value, encode_value
from store.runs import Runs

CHANGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(1, 9)), max_size=30)


class Model:
    """A list of [segment, first, last, count, bytes, pages]."""

    def __init__(self):
        self.rows = []
        self.next = 0

    def check(self, runs):
        assert len(runs) == len(self.rows)
        for index, row in enumerate(self.rows):
            assert runs.run(index) == tuple(row[:5])
            assert runs.pages_of(index) == row[5]
        for position in range(self.next + 2):
            wanted = [i for i, row in enumerate(self.rows) if row[1] <= position <= row[2]]
            assert runs.find(position) == (wanted[0] if wanted else -1)
            later = [i for i, row in enumerate(self.rows) if row[2] >= position]
            assert runs.find_from(position) == (later[0] if later else len(self.rows))


@given(CHANGES)
def test_a_table_is_a_list_of_runs(changes):
    runs, model = Runs(), Model()
    for kind, where, amount in changes:
        index = where % len(model.rows) if model.rows else 0
        if kind == 0 or not model.rows:
            first = model.next + where % 3
            model.next = first + amount
            row = [where + 1, first, first + amount - 1, amount, amount * 10]
            runs.insert(len(runs), *row)
            model.rows.append([*row, []])
        elif kind == 1:
            count = min(amount, model.rows[index][3])
            runs.subtract(index, count, count * 10)
            model.rows[index][3] -= count
            model.rows[index][4] -= count * 10
            if not model.rows[index][3]:
                del model.rows[index]
        else:
            pages = [(amount, where, n, n + 1, n + 2) for n in range(amount % 3)]
            runs.add_pages(index, pages)
            model.rows[index][5] = model.rows[index][5] + pages
    model.check(runs)
    model.check(Runs.thaw(decode_value(encode_value(runs.freeze()))))
    model.check(runs.copy())


def test_a_copy_is_its_own():
    runs = Runs()
    runs.insert(0, 1, 0, 9, 10, 100)
    copy = runs.copy()
    runs.subtract(0, 10, 100)
    assert len(copy) == 1 and not len(runs)


def test_a_run_costs_no_object():
    runs = Runs()
    for number in range(1000):
        runs.insert(number, 1 << 41 | number, number, number, 1, 1)
    assert runs.figures.itemsize * len(runs.figures) == 48_000
