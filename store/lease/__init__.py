"""Who may write: leases that run out by themselves, and epochs that fence former owners."""

from store.lease.block import is_lease_intact
from store.lease.directory import InUse, claim_lease, highest_epoch
from store.lease.held import Lease
from store.lease.host import Host, Identity, RealHost

__all__ = [
    "Host",
    "Identity",
    "InUse",
    "Lease",
    "RealHost",
    "claim_lease",
    "highest_epoch",
    "is_lease_intact",
]
