"""Asking model servers about themselves: one file for each kind of server."""
