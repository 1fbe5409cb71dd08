"""One agent a folder; signals ask it to end; agents without a broker start and stop."""

import signal
import threading
import time

import pytest

from agents import replay, summary
from agents.config import BrokerSettings, ReplaySettings, SummarySettings
from agents.errors import SettingsError
from agents.lifetime import held, only_one, stop_on_signals
from tests.support.quiet import Stopwatch
from tests.support.waiting import PATIENCE_SECONDS


def test_a_folder_is_for_one_agent(tmp_path):
    with (
        only_one(tmp_path),
        pytest.raises(SettingsError, match="stop it first"),
        only_one(tmp_path),
    ):
        pass
    with only_one(tmp_path):
        pass


def test_signals_ask_to_stop():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stopping = threading.Event()
    try:
        stop_on_signals(stopping)
        signal.raise_signal(signal.SIGTERM)
        assert stopping.wait(PATIENCE_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


@pytest.mark.parametrize(
    ("agent", "settings"), [(replay, ReplaySettings), (summary, SummarySettings)]
)
def test_agents_stop_at_once_while_no_broker_is_there(tmp_path, agent, settings):
    # Port 1 of loopback: nobody answers, nothing is opened here.
    nobody = BrokerSettings(addresses=("127.0.0.1:1",))
    reached = threading.Event()

    class StopAsked(threading.Event):
        def wait(self, timeout=None):
            reached.set()
            return super().wait(timeout)

    stopping = StopAsked()
    thread = threading.Thread(target=agent.run, args=(settings(broker=nobody), tmp_path, stopping))
    thread.start()
    assert reached.wait(PATIENCE_SECONDS)
    watch = Stopwatch()
    stopping.set()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    watch.judge(time.monotonic() - watch.started_at, 2.0)


def test_an_agents_folder_is_made_held_and_given_with_what_stops_it(tmp_path):
    stopping = threading.Event()
    with held(tmp_path / "a" / "b", stopping) as stop_asked:
        assert stop_asked is stopping
        with pytest.raises(SettingsError, match="in use"), held(tmp_path / "a" / "b"):
            pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot use the folder"), held(tmp_path / "file" / "x"):
        pass
