"""Servers that come and go while the balancer serves."""
