"""Random work on a journal, and a model of what it must lead to: a store is always one of the model's commits.

For tests/property/test_store_crash.py and tests/sim/test_store_crashes.py.
"""

from __future__ import annotations

import dataclasses

from tests.support.disk import Crashed
from tests.support.store_drive import SMALL, message, unit

# Nearly every segment is compacted sooner or later, a few messages at a time.
COMPACTING = dataclasses.replace(
    SMALL, segment_bytes=16 * 1024, compact_share=0.9, compact_bytes_min=1, compact_group_bytes=300
)


class Model:
    """Lanes as dictionaries, one copy per commit."""

    def __init__(self):
        self.lanes = {}
        self.definitions = {}

    def copy(self):
        made = Model()
        made.lanes = {lane: dict(rows) for lane, rows in self.lanes.items()}
        made.definitions = dict(self.definitions)
        return made

    def alive(self):
        return {lane: rows for lane, rows in self.lanes.items() if rows}


class Work:
    """Makes units from drawn numbers and keeps what they must lead to."""

    def __init__(self, random):
        self.random = random
        self.history = [Model()]
        self.next = {}
        self.serial = 0
        self.dropped = set()
        # While the caller's own thread reads it cannot commit.
        self.is_reading = False

    def unit(self):
        model = self.history[-1].copy()
        made = unit()
        for _ in range(self.random.randrange(0, 4)):
            self._publish(made, model)
        for _ in range(self.random.randrange(0, 4)):
            self._acknowledge(made, model)
        if self.random.random() < 0.15:
            self._change(made, model)
        if made:
            self.history.append(model)
        return made

    def _publish(self, made, model):
        self.serial += 1
        size = self.random.choice([0, 1, 40, 300, 300, 3000])
        sent = message(b"%d:" % self.serial + bytes(size), b"h%d" % self.serial)
        lanes = self.random.sample([1, 2, 3, 4], self.random.choice([1, 1, 1, 2, 3]))
        for lane in lanes:
            lane += 10 * sum(1 for d in self.dropped if d % 10 == lane)
            position = self.next.get(lane, 0)
            if self.random.random() < 0.1:
                position += self.random.randrange(1, 5000)
            self.next[lane] = position + 1
            made.published.append((sent, lane, position))
            model.lanes.setdefault(lane, {})[position] = (sent, 0)

    def _acknowledge(self, made, model):
        alive = model.alive()
        if not alive:
            return
        lane = self.random.choice(sorted(alive))
        positions = sorted(alive[lane])
        start = 0 if self.random.random() < 0.6 else self.random.randrange(len(positions))
        for position in positions[start : start + self.random.randrange(1, 12)]:
            made.acknowledged.append((lane, position, model.lanes[lane].pop(position)[0]))

    def _change(self, made, model):
        kind = self.random.randrange(4)
        alive = sorted(model.alive())
        if kind == 0 or not alive:
            key, value = f"q{self.random.randrange(3)}", self.random.choice([None, {"v": 1}])
            made.define(key, value)
            model.definitions.pop(key, None)
            if value is not None:
                model.definitions[key] = value
            return
        lane = self.random.choice(alive)
        rows = model.lanes[lane]
        if kind == 1:
            end = self.random.choice(sorted(rows)) + 1
            keep = [p for p in rows if self.random.random() < 0.3]
            made.purge(lane, end, keep)
            for position in [p for p in rows if p < end and p not in keep]:
                del rows[position]
        elif kind == 2:
            made.drop_lane(lane)
            model.lanes.pop(lane)
            self.dropped.add(lane)
        else:
            position = self.random.choice(sorted(rows))
            made.requeue(lane, position, 2)
            rows[position] = (rows[position][0], 2)

    def adopt(self, kept, recovered):
        """Go on from the commit that a recovery came back to."""
        self.history = self.history[: kept + 1]
        for lane, state in recovered.lanes.items():
            self.next[lane] = max(self.next.get(lane, 0), state.next)


def content(journal, lanes):
    """All that a store holds, read in small windows."""
    found = {}
    for lane in lanes:
        first = 0
        while rows := journal.read(lane, first, 5, 2000):
            for position, stored, count in rows:
                assert position >= first
                found.setdefault(lane, {})[position] = (stored.header, stored.body, count)
                first = position + 1
    return found


def expected(model):
    return {
        lane: {p: (m.header, m.body, count) for p, (m, count) in rows.items()}
        for lane, rows in model.alive().items()
    }


def check_content(journal, work):
    """A journal shows all that was committed, durable or not."""
    work.is_reading = True
    assert content(journal, work.history[-1].lanes) == expected(work.history[-1])
    work.is_reading = False


def find_commit(work, stepped, durable):
    """The commit whose model the store equals: at least the durable one."""
    lanes = {lane for model in work.history for lane in model.lanes}
    found = content(stepped.journal, lanes)
    for commit in range(durable, len(work.history)):
        model = work.history[commit]
        if expected(model) == found and model.definitions == stepped.recovered.definitions:
            check_figures(stepped, model)
            return commit
    raise AssertionError(f"no commit from {durable} on leads to {found}")


def check_figures(stepped, model):
    lanes = stepped.recovered.lanes
    for lane, rows in model.alive().items():
        state = lanes[lane]
        assert state.count == len(rows)
        assert state.first == min(rows) and state.next > max(rows)
        assert state.bytes == sum(len(m.body) + len(m.header) for m, _ in rows.values())
        assert lane < stepped.recovered.next_lane
    journal = stepped.journal._state
    totals = {}
    for number in journal.packed.keys() | journal.lanes.keys() | journal.deferred.keys():
        lane = journal.find(number)
        for segment, _, _, count, size in map(lane.runs.run, range(len(lane.runs))):
            known = totals.get(segment, (0, 0))
            totals[segment] = known[0] + count, known[1] + size
    assert {s.id: (s.count, s.bytes) for s in journal.segments.values() if s.count} == totals


def work_on(stepped, work, steps, random):
    """Random units, steps and jobs; returns when done, crashed or failed."""
    journal = stepped.journal
    for _ in range(steps):
        made = work.unit()
        journal.commit(made)
        choice = random.random()
        if choice < 0.5:
            stepped.step()
        if choice < 0.3:
            stepped.writer.run_jobs()
        if choice > 0.9:
            check_content(journal, work)
        if journal.failure is not None:
            if isinstance(journal.failure, Crashed):
                raise Crashed
            return
