"""Speaks to clients."""
