"""The reactor comes without TLS, and TLS can be had behind it all the same."""

import subprocess
import sys

CODE = """
import sys
from broker.net.reactor import import_reactor
reactor = import_reactor()
assert "OpenSSL" not in sys.modules and "cryptography" not in sys.modules
import broker.net.tls
assert "OpenSSL" in sys.modules
from twisted.internet.protocol import Factory
port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
assert port.getHost().port
assert import_reactor() is reactor
"""


def test_tls_is_not_imported_with_the_reactor_but_can_be_afterwards():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
