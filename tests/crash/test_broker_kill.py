"""`kill -9` of a real broker under mixed load: every confirmed message is accounted for, afterwards and in between.

Fan-out, priorities, time to live with dead letters, delivery limits, requeues, transactions (STOMP), acknowledgements of all
kinds, and compaction at work.  GRIDMSG_KILL_ROUNDS sets the rounds (3 by default), GRIDMSG_SEED the seed; a round's tally is printed.
"""

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pika
import pytest

from bench.feeder import Feeder, encode_send
from tests.support.site import Site
from tests.support.waiting import wait_until

ROUNDS = int(os.environ.get("GRIDMSG_KILL_ROUNDS", "3"))
CHECK_EVERY = 5
CONFIRMED_MIN = 20
"""In each round."""
WAIT_SECONDS = 300
"""Long rounds run beside other work, and may be paused for it."""
CONFIG = """
[store]
segment-size = "1MiB"
checkpoint-size = "1MiB"
checkpoint-records = 400
compact-size = "2MiB"
[broker]
window-size = "64KiB"
window-messages = 200
memory-limit = "8MiB"
[failover]
# Who was killed here is proved dead at once; a broker that other work starves shall not give up meanwhile.
lease = "120s"
"""
TO_DEAD = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
QUEUES = {
    "fan.a": {},
    "fan.b": {},
    "prio": {"x-max-priority": 5},
    "ttl": {"x-message-ttl": 300, **TO_DEAD},
    "limit": {"x-delivery-limit": 2, **TO_DEAD},
    "dead": {},
    "tx": {},
    "old": {},
}
GONE = (pika.exceptions.AMQPError, OSError, Exception)


class Books:
    """What was sent, what was confirmed, what consumers saw and settled; all threads write it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.serial = 0
        self.sent = {}  # id → (queues where it must be, group)
        self.confirmed = set()
        self.settled = {}  # id → queues where a consumer acknowledged it
        self.seen = {}  # (id, queue) → the round in which it was delivered last
        self.round = 0
        self.problems = []

    def new(self, queues, group=None):
        with self.lock:
            self.serial += 1
            self.sent[self.serial] = (queues, group)
            return self.serial

    def confirm(self, ids):
        with self.lock:
            self.confirmed.update(ids)

    def see(self, body, queue, is_redelivered):
        """Note a delivery; a second one must be marked."""
        number = int(body.split(b":")[0])
        with self.lock:
            if number not in self.sent:
                self.problems.append(f"{number} in {queue} was never sent")
            last = self.seen.get((number, queue))
            # A dead letter is a new message.  Delivered before it was durable and lost with the broker, it is
            # written, and delivered, once more: its only mark is `x-death`.
            is_new = queue == "dead" and last is not None and last < self.round
            if last is not None and not is_redelivered and not is_new:
                self.problems.append(f"{number} came twice to {queue}, unmarked")
            self.seen[number, queue] = self.round
        return number

    def settle(self, number, queue):
        with self.lock:
            self.settled.setdefault(number, set()).add(queue)


def amqp(site):
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            "127.0.0.1", site.port(5672), socket_timeout=WAIT_SECONDS, heartbeat=0
        )
    )


def declare(site):
    with contextlib.closing(amqp(site)) as connection:
        channel = connection.channel()
        for name, arguments in QUEUES.items():
            channel.queue_declare(name, durable=True, arguments=arguments)
        channel.exchange_declare("fan", "fanout", durable=True)
        channel.queue_bind("fan.a", "fan")
        channel.queue_bind("fan.b", "fan")


def publish_amqp(site, books, dice):
    """Confirmed one by one: fan-outs, priorities, times to live, delivery limits."""
    with contextlib.closing(amqp(site)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        while True:
            queue = dice.choice(["fan", "prio", "ttl", "limit"])
            number = books.new(("fan.a", "fan.b") if queue == "fan" else (queue,))
            body = b"%d:" % number + bytes(dice.choice([0, 100, 2000, 20_000]))
            properties = pika.BasicProperties(delivery_mode=2, priority=dice.randrange(6))
            exchange, key = ("fan", "") if queue == "fan" else ("", queue)
            channel.basic_publish(exchange, key, body, properties)
            books.confirm([number])


def publish_stomp(site, books, dice):
    """Transactions of five to one queue, and a thin stream to a queue that nobody consumes."""
    feeder = Feeder(site.port(61613), WAIT_SECONDS)
    with contextlib.closing(feeder):
        for count in range(10**9):
            group = books.serial, id(feeder), count
            ids = [books.new(("tx",), group) for _ in range(5)]
            feeder.send(b"BEGIN\ntransaction:t\n\n\0")
            for number in ids:
                body = b"%d:" % number + bytes(dice.choice([0, 300]))
                feeder.send(encode_send("tx", body, extra="transaction:t\n"))
            feeder.send(b"COMMIT\ntransaction:t\nreceipt:c\n\n\0")
            feeder.expect("RECEIPT")
            books.confirm(ids)
            if count % 50 == 0:
                number = books.new(("old",))
                feeder.send(encode_send("old", b"%d:" % number, "o"))
                feeder.expect("RECEIPT")
                books.confirm([number])


def consume_amqp(site, books, dice):
    """Acknowledge most, requeue and reject some, leave some in hand."""
    with contextlib.closing(amqp(site)) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=50)

        def take(queue):
            def on_message(_, method, properties, body):
                number = books.see(body, queue, method.redelivered)
                choice = dice.random()
                if choice < 0.7:
                    # Noted before it is sent: it may take effect, or not, when the broker dies now.
                    books.settle(number, queue)
                    channel.basic_ack(method.delivery_tag)
                elif choice < 0.85:
                    channel.basic_nack(method.delivery_tag, requeue=True)
                elif choice < 0.9 and queue == "limit":
                    channel.basic_nack(method.delivery_tag, requeue=False)
                elif choice > 0.97:
                    return
                else:
                    channel.basic_nack(method.delivery_tag, requeue=True)

            return on_message

        for queue in ("fan.a", "fan.b", "prio", "limit", "dead"):
            channel.basic_consume(queue, take(queue))
        channel.start_consuming()


def consume_stomp(site, books, dice):
    """Take transactions one by one."""
    feeder = Feeder(site.port(61613), WAIT_SECONDS)
    with contextlib.closing(feeder):
        feeder.subscribe("tx", 20)
        while True:
            headers, body = feeder.expect("MESSAGE")
            number = books.see(body, "tx", headers.get("redelivered") == "true")
            if dice.random() < 0.9:
                books.settle(number, "tx")
                feeder.send(f"ACK\nid:{headers['ack']}\n\n\0".encode())
            time.sleep(0.0005)


def run(job, *arguments):
    """A thread that ends with its broker."""

    def go():
        with contextlib.suppress(*GONE):
            job(*arguments)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    return thread


def drain(site, books):
    """Take all that is there: (id, queue) → how often."""
    found = Counter()
    with contextlib.closing(amqp(site)) as connection:
        channel = connection.channel()
        time.sleep(0.6)  # what has a time to live goes its way
        for queue in QUEUES:
            while True:
                method, properties, body = channel.basic_get(queue, auto_ack=True)
                if method is None:
                    break
                number = books.see(body, queue, method.redelivered)
                found[number, queue] += 1
    return found


def check(books, found):
    """Every confirmed message is where it must be, or a consumer settled it; groups are whole; nothing is there twice."""
    problems = books.problems
    problems += [f"{key} is there {count} times" for key, count in found.items() if count > 1]
    there = {}
    for number, queue in found:
        there.setdefault(number, set()).add(queue)
    whole = {}
    for number, (queues, group) in books.sent.items():
        places = there.get(number, set()) | books.settled.get(number, set())
        is_confirmed = number in books.confirmed
        for queue in queues:
            is_there = queue in places or (queue in ("ttl", "limit") and "dead" in places)
            # With a time to live it may have died unseen only into the dead letters, never away.
            if is_confirmed and not is_there:
                problems.append(f"{number}, confirmed, is not in {queue}: {places}")
            if is_confirmed or number not in books.settled:
                # (What was settled before it was durable may be gone with the rest of its group.)
                whole.setdefault(group or ("message", number), set()).add(is_there)
    problems += [f"{group} is there in part" for group, parts in whole.items() if len(parts) > 1]
    return problems


def moved_bytes(site):
    """What compaction has moved so far in this process."""
    status = json.loads(site.run("status", "--json").stdout)
    return find(status, "moved_bytes")


def find(value, name):
    """The first value of that name, at any depth."""
    if isinstance(value, dict):
        if name in value:
            return value[name]
        value = list(value.values())
    found = (find(one, name) for one in value) if isinstance(value, list) else ()
    return next((one for one in found if one is not None), None)


@pytest.fixture
def site(tmp_path: Path):
    made = Site(tmp_path / "site", CONFIG)
    try:
        made.start_broker()
        yield made
    finally:
        made.close()


@pytest.mark.crash
def test_every_confirmed_message_is_accounted_for(site):
    seed = int(os.environ.get("GRIDMSG_SEED", str(random.randrange(1 << 30))))
    dice = random.Random(seed)
    declare(site)
    books = Books()
    tally = Counter()
    for round_number in range(1, ROUNDS + 1):
        books.round = round_number
        jobs = [publish_amqp, publish_amqp, publish_stomp, consume_amqp, consume_stomp]
        threads = [
            run(job, site, books, random.Random(dice.randrange(1 << 30)))  # noqa: S311
            for job in jobs
        ]
        # However slow the machine is: enough was promised before it is killed.
        goal = len(books.confirmed) + CONFIRMED_MIN
        wait_until(lambda goal=goal: len(books.confirmed) >= goal, "confirms", site)
        time.sleep(dice.uniform(0.0, 2.0))
        tally["moved bytes"] += moved_bytes(site) if round_number % CHECK_EVERY == 1 else 0
        site.kill("broker", "run")
        for thread in threads:
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "a client hangs"
        site.start_broker()
        if round_number % CHECK_EVERY == 0 or round_number == ROUNDS:
            books.round = round_number + 0.5
            found = drain(site, books)
            problems = check(books, found)
            tally.update(
                sent=len(books.sent),
                confirmed=len(books.confirmed),
                found=len(found),
                settled=sum(map(len, books.settled.values())),
            )
            assert not problems, (
                f"seed {seed}, round {round_number}: {problems[:10]}\n{site.logs()}"
            )
            serial, books = books.serial, Books()
            books.serial = serial
    stat = site.run("store", "verify", check=False)
    print(f"seed {seed}, {ROUNDS} rounds: {dict(tally)}; {stat.stdout.splitlines()[-2:]}")
    assert tally["confirmed"] >= CONFIRMED_MIN * ROUNDS
