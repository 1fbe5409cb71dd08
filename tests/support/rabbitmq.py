"""A RabbitMQ node of one's own for tests: ports of its own, everything in one folder, ended by its process group."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.site import listens
from tests.support.waiting import wait_until

SERVERS = (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), Path("/usr/sbin/rabbitmq-server"))
START_S = 300.0


def server_path() -> Path:
    """The server's script; skips the test when there is none."""
    for path in SERVERS:
        if path.exists():
            return path
    found = shutil.which("rabbitmq-server")
    if found is None:
        pytest.skip("RabbitMQ is not installed (Debian: apt install rabbitmq-server)")
    return Path(found)


class RabbitMq:
    """One node with the STOMP plugin; guest/guest, from loopback."""

    def __init__(self, folder: Path, definitions: dict[str, object]) -> None:
        self.server = server_path()
        self.folder = folder
        folder.mkdir(parents=True)
        self.amqp_port, self.stomp_port, epmd, distribution = (free_port() for _ in range(4))
        (folder / "plugins").write_text("[rabbitmq_stomp].\n")
        self.definitions = folder / "definitions.json"
        self.definitions.write_text(json.dumps(definitions))
        (folder / "rabbit.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.amqp_port}\n"
            f"stomp.listeners.tcp.1 = 127.0.0.1:{self.stomp_port}\n"
            "disk_free_limit.absolute = 50MB\n"
            "log.file.level = warning\n"
        )
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_NODENAME": f"gridmsg{self.amqp_port}@localhost",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbit.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_PID_FILE": f"{folder}/beam.pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the node and wait until it takes AMQP and STOMP."""
        with (self.folder / "out.log").open("ab") as out:
            process = self.process = subprocess.Popen(
                [self.server],
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def is_there() -> bool:
            if process.poll() is not None:
                pytest.fail(f"RabbitMQ ended\n{self.logs()}")
            return listens(self.amqp_port) and listens(self.stomp_port)

        try:
            wait_until(is_there, "RabbitMQ", self, timeout_s=START_S, pause_s=0.2)
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    def logs(self) -> str:
        """The end of what the server said, for a failure's text."""
        return (self.folder / "out.log").read_text(errors="replace")[-3000:]

    def import_definitions(self) -> None:
        """Load the definitions as docs/rabbitmq.md says."""
        tool = self.server.with_name("rabbitmqctl")
        done = subprocess.run(
            [tool, "import_definitions", self.definitions],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the node and all that it started but its port mapper, which ends by its own group."""
        process, self.process = self.process, None
        if process is None:
            return
        for pid in _tree(process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End the node, then the port mapper that it left behind."""
        self.end()
        mapper = shutil.which("epmd", path=f"{os.environ['PATH']}:/usr/lib/erlang/bin")
        if mapper is not None:
            subprocess.run(
                [mapper, "-relaxed_command_check", "-kill"],
                env=self.environment,
                capture_output=True,
                check=False,
            )


def _tree(pid: int) -> list[int]:
    """A process and its descendants, parents first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _tree(int(child)))]
