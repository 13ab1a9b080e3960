"""What policy does, one verb per file."""
