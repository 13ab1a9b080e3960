"""The rules of memory: what may be remembered, and what of it fits into a recall."""
