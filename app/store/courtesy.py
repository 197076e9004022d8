"""Who goes first where requests of several replicas want the same place."""

from typing import Final

from app.routing.ledger import Lease
from app.routing.prompt_cache import Match

COURTESY: Final = 0.02
"""The part of its time by which a request lets others go first, and the most seconds."""


def courtesy(lease: Lease, waited: float, service: float) -> float:
    """Return for how many seconds a request lets those of other replicas go first.

    All hear of a free place at once. So whoever has a better claim to it asks sooner: first who has
    a prompt there, then who has `waited` for longest since it came, or since its last turn. Both
    are measured by how long requests take at the server (`service`), in seconds.
    """
    unit = min(COURTESY, COURTESY * service)
    if not unit:
        return 0.0  # nobody knows what a moment is worth there
    occupancy = lease.occupancy
    match = Match.EVICTS if occupancy is None else occupancy.placement.match
    return (0.0 if match <= Match.CHANGED else 1.2 * unit) + unit * service / (service + waited)
