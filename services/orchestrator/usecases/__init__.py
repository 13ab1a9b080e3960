"""What callers ask of the orchestrator, one verb a file."""
