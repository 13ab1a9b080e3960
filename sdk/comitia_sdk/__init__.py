"""What users of Comitia import: client and CLI."""
