"""What the agents refuse or could not do, as meanings.

Every text is one line that says what happened and, where there is one, what to do.  Lies below every other
module of `agents`.  Tests: tests/unit/agents/.
"""

from __future__ import annotations


class AgentError(Exception):
    """Something an agent could not do; `text` is one line for people and logs."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Unavailable(AgentError):
    """Not confirmed by the broker: may be sent again, and may then arrive twice."""


class Refused(AgentError):
    """The broker said no to a message, with its text: sending the same again will not help by itself."""


class SpoolFull(AgentError):
    """The spool on disk has reached its bound in bytes or files; nothing was kept."""


class BadRecord(AgentError):
    """A usage record that cannot be read; `text` is the reason that quarantine keeps beside the original."""


class BadRequest(AgentError):
    """A request of a probe that cannot be understood as a whole; `text` is what the probe is told."""


class SettingsError(AgentError):
    """A configuration that cannot be used: names the file, the key and what is allowed."""
