"""A peer by its script: what it is called with, whose memory counts, what is refused."""

import os
import subprocess
import sys

import click
import pytest

from bench.peer_process import PeerProcess, tree_of

SCRIPT = """#!/bin/sh
echo "$1 $2 KEEP=$KEEP" >>"{log}"
case $1 in pid) echo {pid};; data) echo {folder};; kill) exit {status};; esac
"""


@pytest.fixture
def script(tmp_path):
    def make(status=0):
        path = tmp_path / "peer.sh"
        log = tmp_path / "log"
        path.write_text(
            SCRIPT.format(log=log, pid=os.getpid(), folder=tmp_path / "data", status=status)
        )
        path.chmod(0o755)
        return str(path), log

    return make


def test_the_first_start_begins_an_empty_store_and_later_ones_keep_it(script, tmp_path):
    path, log = script()
    peer = PeerProcess.parse(f"other:61613:{path}")
    peer.kill()
    peer.start()
    peer.kill()
    peer.start()
    assert peer.folder == tmp_path / "data" and peer.pid == os.getpid() and peer.port == 61613
    words = log.read_text().splitlines()
    assert words[:3] == ["start other KEEP=", "kill other KEEP=1", "start other KEEP=1"]


def test_memory_and_time_are_of_the_whole_tree(script):
    peer = PeerProcess.parse(f"other:61613:{script()[0]}")
    alone, _ = peer.memory_bytes()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in tree_of(os.getpid())
        together, peak = peer.memory_bytes()
        assert peak >= together > alone
        assert peer.cpu_seconds() > 0
    finally:
        child.stdin.close()
        child.wait()


@pytest.mark.parametrize("text", ["rabbitmq", "rabbitmq:61613", "rabbitmq:stomp:x", ":1:x"])
def test_an_option_that_makes_no_sense_is_refused(text):
    with pytest.raises(click.BadParameter):
        PeerProcess.parse(text)


def test_a_script_that_fails_is_named(script):
    path, _ = script(status=3)
    peer = PeerProcess.parse(f"other:61613:{path}")
    peer.start()
    with pytest.raises(click.ClickException, match="kill other"):
        peer.kill()
