"""Rollouts: a changed split of a route between two versions, and the judge of it. Pure."""
