"""Memory: what agents said and read, the latest of a session at once, the most similar by vectors."""
