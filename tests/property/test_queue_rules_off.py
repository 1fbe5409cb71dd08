"""Bugs planted in the queue, one at a time: the models of test_queue_rules.py and test_queue_model.py must notice each.

The packages are copied, one place is changed, and the model named for it runs on the copy, from a fixed seed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rules_off import Off, check_noticed, copied, run

pytestmark = pytest.mark.slow
COPIED = ("store", "broker", "tests/support", "tests/property")
RULES = ("tests/property/test_queue_rules.py", "TestQueueRules")
PLAIN = ("tests/property/test_queue_model.py", "TestQueueModel")
SEED = "--hypothesis-seed=20260101"
EXAMPLES = "max_examples=400"
NO_SHRINKING = """
from hypothesis import Phase, settings
settings.register_profile("planted", database=None, phases=[Phase.generate])
settings.load_profile("planted")
"""
QUEUE, LANE, EXPIRY, BROKER = (
    f"broker/core/{one}.py" for one in ("queue", "lane", "expiry", "broker")
)
TAKES_IN_ORDER = "        for lane in reversed(self.lanes):\n            while lane.ready or "
BURIES = '    queue.vhost.dead_letter(queue, delivery, "expired", "time to live passed")'
LOADS = "        lane.paged_from = rows[-1][0] + 1"

PLANTED = (
    Off("ttl acts one ms early", EXPIRY, "expires_at < now_ms", "expires_at <= now_ms", RULES),
    Off(
        "delivery limit one less", QUEUE, "delivery.count > limit", "delivery.count >= limit", RULES
    ),
    Off(
        "low priority first",
        QUEUE,
        f"{TAKES_IN_ORDER}lane.paged_count",
        f"{TAKES_IN_ORDER}lane.paged_count".replace("reversed(self.lanes)", "self.lanes"),
        RULES,
    ),
    Off(
        "requeued to the tail",
        LANE,
        "ready.extendleft(reversed(returned))",
        "ready.extend(returned)",
        PLAIN,
    ),
    Off(
        "requeued in reverse",
        LANE,
        "ready.extendleft(reversed(returned))",
        "ready.extendleft(returned)",
        PLAIN,
    ),
    Off("credit is not taken", QUEUE, "            subscription.credit -= count\n", "", PLAIN),
    Off(
        "credit is given twice",
        BROKER,
        "subscription.credit += count\n        subscription.unsettled",
        "subscription.credit += count + 1\n        subscription.unsettled",
        PLAIN,
    ),
    Off("priority ignored", QUEUE, "min(message.priority, len(self.lanes) - 1)", "0", RULES),
    Off("expired dropped, no dead letter", EXPIRY, BURIES, "    queue.forget(delivery)", RULES),
    Off(
        "head not watched",
        EXPIRY,
        "    if lane.ready:\n        queue.broker.watch",
        "    if False:\n        queue.broker.watch",
        RULES,
    ),
    Off(
        "get: low priority first",
        QUEUE,
        f"{TAKES_IN_ORDER}backlog.load",
        f"{TAKES_IN_ORDER}backlog.load".replace("reversed(self.lanes)", "self.lanes"),
        RULES,
    ),
    Off("window read twice", "broker/core/backlog.py", LOADS, LOADS.removesuffix(" + 1"), PLAIN),
    Off("release not marked", QUEUE, "delivery.count = delivery.count or 1", "pass", RULES),
    Off("release counted", QUEUE, "            if not is_counted:", "            if False:", RULES),
    Off(
        "delayed requeue forgets its count",
        "broker/core/delay.py",
        "message, True, count)",
        "message, True, 0)",
        RULES,
    ),
    Off("reject: other reason", BROKER, '"rejected", cause', '"expired", cause', RULES),
    Off(
        "purge takes what is in hands",
        QUEUE,
        "kept = sorted([*lane.unsettled, *lane.held])",
        "kept: list[int] = []",
        RULES,
    ),
    Off(
        "ttl 0 enters an empty queue",
        EXPIRY,
        "return 0 < message.expires_at <= queue.broker.now_ms or",
        "return",
        RULES,
    ),
    Off(
        "expired handed over",
        QUEUE,
        "        if self.has_expiry:\n            run =",
        "        if False:\n            run =",
        RULES,
    ),
    Off(
        "acknowledged stays in hands",
        BROKER,
        "            if lane.unsettled.pop(delivery.position, None) is None:\n",
        "            if lane.unsettled.get(delivery.position) is None:\n",
        PLAIN,
    ),
    Off(
        "get does not expire",
        QUEUE,
        "if self.has_expiry and expiry.has_expired(self, delivery.message):",
        "if False:",
        RULES,
    ),
    Off(
        "one expires, and then nobody looks",
        EXPIRY,
        "            bury(queue, delivery)\n    if next_ms",
        "            bury(queue, delivery)\n            break\n    if next_ms",
        RULES,
    ),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = copied(tmp_path_factory.mktemp("tree"), COPIED)
    (made / "conftest.py").write_text(NO_SHRINKING)
    for name, _ in (RULES, PLAIN):
        source = (made / name).read_text()
        assert source.count("max_examples=60") == 1
        (made / name).write_text(source.replace("max_examples=60", EXAMPLES))
    return made


@pytest.mark.parametrize("off", PLANTED, ids=lambda off: off.name)
def test_a_planted_bug_is_noticed(tree, off):
    check_noticed(tree, off, {}, SEED)


@pytest.mark.parametrize("model", [RULES, PLAIN])
def test_without_a_bug_nobody_complains(tree, model):
    done = run(tree, model, {}, SEED)
    assert done.returncode == 0, done.stdout[-1500:]
