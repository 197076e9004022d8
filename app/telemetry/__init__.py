"""Tells operators what is going on."""
