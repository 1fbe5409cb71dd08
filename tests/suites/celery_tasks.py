"""Celery tasks over `pyamqp://` with `rpc://` results: what `tests.suites.packaged celery` runs, as worker and as caller."""

from __future__ import annotations

import os
import ssl
import sys
import time
from typing import Any

from celery import Celery, chain, group

TLS = (
    {
        "ca_certs": os.environ["CA"],
        "certfile": os.environ["CERTIFICATE"],
        "keyfile": os.environ["KEY"],
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": "localhost",
    }
    if "CA" in os.environ
    else None
)
WAIT_SECONDS = 120
app = Celery("celery_tasks", broker=os.environ["BROKER"], backend="rpc://")
app.conf.update(broker_use_ssl=TLS, broker_connection_retry_on_startup=True)


@app.task(name="add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="flaky", bind=True, max_retries=3, acks_late=True)
def flaky(self: Any, number: int) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0.5)
    return number * 2


def main() -> int:
    """Ask for each kind of work, and compare."""
    began = time.monotonic()
    found = {
        "task": (add.delay(2, 3).get(timeout=WAIT_SECONDS), 5),
        "chain": (chain(add.s(1, 2), add.s(10)).apply_async().get(timeout=WAIT_SECONDS), 13),
        "group": (
            sum(group(add.s(i, i) for i in range(50)).apply_async().get(timeout=WAIT_SECONDS)),
            2450,
        ),
        "retry": (flaky.delay(4).get(timeout=WAIT_SECONDS), 8),
    }
    asked = time.monotonic()
    found["countdown"] = (add.apply_async((1, 1), countdown=2).get(timeout=WAIT_SECONDS), 2)
    is_late = time.monotonic() - asked >= 1.9
    found["countdown waits"] = (is_late, True)
    found["ping"] = (len(app.control.ping(timeout=10)), 1)
    wrong = {name: pair for name, pair in found.items() if pair[0] != pair[1]}
    sys.stdout.write(
        f"  {len(found) - len(wrong)} of {len(found)} right {wrong or ''} in {time.monotonic() - began:.0f} s\n"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
