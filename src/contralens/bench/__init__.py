"""The world benchmark: probe sets of the rendered worlds, and every scorer's labels against the truth."""
