from __future__ import annotations

import queue
import threading

from broker.net.checks import Checks
from tests.support.waiting import PATIENCE_SECONDS


def test_checks_run_elsewhere_and_report_here(caplog):
    posted = queue.SimpleQueue()
    checks = Checks(lambda call, *arguments: posted.put((call, arguments)))
    results = []
    threads = []

    def check():
        threads.append(threading.current_thread())
        return True

    def broken():
        raise OSError("no memory")

    checks(check, results.append)
    checks(broken, results.append)
    for _ in range(2):
        call, arguments = posted.get(timeout=PATIENCE_SECONDS)
        call(*arguments)
    assert results == [True, False]
    assert threads[0] is not threading.current_thread()
    assert "a login could not be checked" in caplog.text
    checks.stop()


def test_nothing_starts_before_the_first_check_nor_after_the_end():
    # Threads of other tests may end meanwhile.
    before = set(threading.enumerate())
    checks = Checks(lambda *_: None)
    assert set(threading.enumerate()) <= before
    checks.stop()
    checks(lambda: True, lambda _: None)
    assert set(threading.enumerate()) <= before
