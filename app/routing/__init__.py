"""Decides which server and instance take a request: no I/O, no await, no framework."""
