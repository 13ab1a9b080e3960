"""What memory does, one verb per file, and what it needs for that."""
