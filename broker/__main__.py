"""`python -m broker` is the `gridmsg` command."""

from __future__ import annotations

from broker.cli import main

if __name__ == "__main__":
    main()
