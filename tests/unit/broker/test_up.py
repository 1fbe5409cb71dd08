"""broker.up: back-off, lines, checks before the start, and real children that end."""

from __future__ import annotations

import signal
import socket
import sys

import pytest

from broker import up
from broker.cli.base import Failure
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_SECONDS, wait_until


def child(code, name="child"):
    return up.Child(name, [sys.executable, "-c", code])


def test_the_pause_doubles_up_to_a_bound_and_falls_back_after_a_steady_run():
    one = child("")
    pauses = []
    for _ in range(9):
        one.started_at = 0.0
        one.ended(1.0)
        pauses.append(one.start_at - 1.0)
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses[-1] == up.PAUSE_SECONDS_MAX
    one.ended(up.STEADY_SECONDS)
    assert one.start_at == up.STEADY_SECONDS + up.PAUSE_SECONDS_MIN


def test_lines_are_whole_and_bounded():
    one = child("")
    assert list(one.lines(b"a\nb")) == ["a"]
    assert list(one.lines(b"c\n\xff\n")) == ["bc", "�"]
    assert len(list(one.lines(b"x" * (up.LINE_BYTES_MAX + 1)))) == 1
    assert one.rest == b""


def run_until(site, is_done):
    def is_done_now():
        site.turn(0.01)
        return is_done()

    wait_until(is_done_now, "lines of children", pause_s=0)


def test_a_child_that_ends_is_started_again_and_its_lines_are_passed_on(monkeypatch):
    monkeypatch.setattr(up, "PAUSE_SECONDS_MIN", 0.01)
    written = []
    one = child("print('hello'); raise SystemExit(3)", "one")
    one.pause_seconds = 0.01
    site = up.Site([child("import time; time.sleep(60)", "broker"), one], written.append)
    run_until(site, lambda: written.count("one       | hello") >= 2)
    assert any(
        line.startswith("one ended (exit status 3): starting it again in ") for line in written
    )
    site.stop()


def test_stopping_ends_the_broker_last_and_kills_what_does_not_end(monkeypatch):
    # What obeys must have ended by then on any machine.
    monkeypatch.setattr(up, "STOP_SECONDS", 4.0)
    written = []
    obedient = "import signal, sys, time; signal.signal(15, lambda *_: (print('bye', flush=True), sys.exit())); print('up', flush=True); time.sleep(60)"
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    broker, agent = child(obedient, "broker"), child(stubborn, "agent")
    site = up.Site([broker, agent], written.append)
    run_until(site, lambda: sum(line.endswith("| up") for line in written) == 2)
    processes = [broker.process, agent.process]
    site.stop()
    assert [one.returncode for one in processes] == [0, -signal.SIGKILL]
    assert written.index("agent did not end in 4 s: killing it") < written.index("broker    | bye")
    assert not any("starting it again" in line for line in written)


def test_a_child_ends_with_its_supervisor():
    """`kill -9` of the supervisor ends the pipe that is the child's input."""
    code = (
        "import signal, time; from broker.cli.supervised import end_with_supervisor\n"
        "end_with_supervisor(); print('up', flush=True)\n"
        "try:\n time.sleep(60)\nexcept KeyboardInterrupt: pass"
    )
    written = []
    one = child(code, "one")
    site = up.Site([child("import time; time.sleep(60)", "broker"), one], written.append)
    run_until(site, lambda: "one       | up" in written)
    one.process.stdin.close()
    one.process.stdin = None
    assert one.process.wait(PATIENCE_SECONDS) == -signal.SIGTERM
    site.stop()


def test_the_site_runs_on_when_nobody_reads_its_output(monkeypatch):
    def broken(*_arguments, **_named):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", broken)
    one = child("print('hello')", "one")
    site = up.Site([child("import time; time.sleep(60)", "broker"), one], up._write_line)
    site.turn(0.01)
    run_until(site, lambda: one.process is None)
    site.stop()
    assert all(each.process is None for each in site._children)


def test_a_port_in_use_names_port_and_remedy():
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(
            Failure, match=rf"port {port} \(amqp\) on 127.0.0.1 is in use: .*--port-offset"
        ):
            up.check_ports([("amqp", "127.0.0.1", port)])
    up.check_ports([("amqp", "127.0.0.1", port)])


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="cannot write to the data folder .*--data"):
        up.check_folder(tmp_path / "file" / "data")
    up.check_folder(tmp_path / "new" / "data")
    assert list((tmp_path / "new" / "data").iterdir()) == []


def test_each_database_has_its_child():
    commands = {
        one.name: one.command
        for one in up.agent_children(["g"], ["--x"], ["site", "two"], ("replay",))
    }
    assert list(commands) == ["collector", "site", "two", "summary"]
    assert commands["two"] == ["g", "database", "run", "--name", "two", "--x"]
    (one,) = up.agent_children(["g"], [], ["site"], ("collector", "summary", "replay"))
    assert one.command == ["g", "database", "run"]
