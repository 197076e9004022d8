"""Modelled servers and traffic, to see the balancer at work without a GPU."""
