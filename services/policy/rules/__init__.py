"""Bundles as people write them, and how their rules judge content. Pure: no IO, no clock of its own."""
