"""A request's way to a server and back."""
