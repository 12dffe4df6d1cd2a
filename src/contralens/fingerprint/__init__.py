"""Equal texts and digests for what computes the same: settings, functions with all that they reach, networks."""
