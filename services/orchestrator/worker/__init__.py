"""Makes the outward calls of a run, patiently."""
