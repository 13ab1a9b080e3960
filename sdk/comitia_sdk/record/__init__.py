"""Runs as files: one format, read and written without a mesh. docs/record.md explains it."""
