"""A request gets its place as the proxy would get it: at once, or from the queue."""

import asyncio

from app.proxy.queue import WAIT, RequestQueue
from app.proxy.queued_request import QueuedRequest, Turn
from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.ledger import Lease


async def placed(balancer: Balancer, queue: RequestQueue, ask: Ask) -> Lease:
    """Wait for a place."""
    place = balancer.place(ask)
    if isinstance(place, Lease):
        return place
    assert place in WAIT, place
    turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
    queue.enter(
        QueuedRequest(
            ask.client,
            ask.model,
            lambda: balancer.place(ask),
            turn.set_result,
            held=lambda: balancer.holds(ask),
            address=ask.address,
        )
    )
    lease = await turn
    assert isinstance(lease, Lease), lease
    return lease
