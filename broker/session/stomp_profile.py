"""The habits of other brokers that a STOMP listener can be told to have: `profile` of `[[listener]]`.

One row a habit, one column a profile; the design's protocols.md 3.1 says where they come from.
Tests: tests/conformance/stomp_profiles.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ProfileName = Literal["strict", "rabbitmq", "activemq"]
Composites = Literal["none", "typed", "all"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How a listener behaves where brokers differ.

    `stays_open`: after most ERRORs.  `names_receipt`: ERROR has `receipt-id`.  `tells_parse_errors`: else it just closes.
    `checks_host`: what names no vhost is refused.  `passes_auto_acks`: ACKs that `ack:auto` does not need are no error.
    `honors_mandatory`: an unroutable SEND with `mandatory:true` is an ERROR.  `requeues_nacks`: unless NACK says otherwise.
    `keeps_destination`: MESSAGE has the destination that the sender wrote.  `has_slashes`: names of queues and topics may
    contain them.  `has_activemq_names`: `>` at the end of a topic, and virtual topics' queues.  `composites`: which commas part
    destinations: none, those before a prefix, or all.  `delays`: `x-delay` and `AMQ_SCHEDULED_DELAY` work everywhere.
    `needs_ids`: SUBSCRIBE of 1.1 and 1.2 without `id` is an ERROR; else it goes by its destination, as in 1.0.  `id_prefixes`: what the
    text about a second subscription puts before an id, and before a destination.  `needs_message_only`: an ACK or NACK of 1.1 is found by its `message-id`, whatever its `subscription` says, and 1.0 has NACK.
    """

    name: ProfileName
    stays_open: bool = False
    names_receipt: bool = True
    tells_parse_errors: bool = True
    checks_host: bool = False
    passes_auto_acks: bool = True
    honors_mandatory: bool = True
    requeues_nacks: bool = True
    keeps_destination: bool = False
    has_slashes: bool = False
    has_activemq_names: bool = True
    composites: Composites = "typed"
    delays: bool = True
    needs_ids: bool = True
    id_prefixes: tuple[str, str] = ("", "")
    needs_message_only: bool = False


STRICT: Final = Profile("strict")

PROFILES: Final[dict[ProfileName, Profile]] = {
    "strict": STRICT,
    "rabbitmq": Profile(
        "rabbitmq",
        stays_open=True,
        names_receipt=False,
        tells_parse_errors=False,
        checks_host=True,
        passes_auto_acks=False,
        honors_mandatory=False,
        has_activemq_names=False,
        composites="none",
        delays=False,
        needs_ids=False,
        id_prefixes=("T_", "Q_"),
        needs_message_only=True,
    ),
    "activemq": Profile(
        "activemq",
        requeues_nacks=False,
        keeps_destination=True,
        has_slashes=True,
        composites="all",
    ),
}
