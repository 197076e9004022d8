"""The clients' side of HTTP."""
