"""Regular expressions that could take too long (catastrophic backtracking)."""
