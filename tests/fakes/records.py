"""Records of requests that have ended."""

from app.routing.ledger import Lease
from app.telemetry.record import Record


def record(
    number: object = 1,
    endpoint: str = "/v1/chat/completions",
    address: str = "10.0.0.1",
    started: float = 1.0,
    *,
    server: str = "",
    instance: str = "",
    reason: str = "",
    **facts: object,
) -> Record:
    """Make a record of a request that went to a server, if one is named."""
    made = Record(str(number), endpoint, address, started)
    if server:
        made.lease = Lease(
            server,
            instance,
            model=instance,
            client=address,
            reason=reason,
            since=started,
            let_go=lambda _: None,
        )
    for name, value in facts.items():
        setattr(made, name, value)
    return made
