"""Reaches the model servers."""
