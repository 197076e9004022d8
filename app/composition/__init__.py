"""How the parts of the balancer are put together, at the start and at each reload."""
