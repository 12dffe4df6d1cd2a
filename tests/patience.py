"""How long a test waits for another process before it calls that process hung. No test passes or fails by being slow:
this is far above what anything takes on the slowest machine with other work on it."""

HUNG = 3600.0
"""Seconds."""
