"""Run a command in a network namespace, and let it die with the lab: `python -m bench.lab.inside NAMESPACE COMMAND…`.

The namespace `-` is the one we are in.  The process becomes the command, so its id is the one that the lab kills and measures.
Tests: tests/interop/test_lab_packets.py.
"""

from __future__ import annotations

import os
import sys

from bench.lab import tun


def main(words: list[str]) -> int:
    """Enter, and become the command; returns only when that fails."""
    namespace, *command = words
    parent = os.getppid()
    try:
        if namespace != "-":
            tun.enter(namespace)
        tun.die_with_parent()
        if os.getppid() != parent:
            return 1
        os.execvp(command[0], command)  # noqa: S606 - the lab's own words, no shell wanted
    except OSError as error:
        print(f"{' '.join(words)}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
