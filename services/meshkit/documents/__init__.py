"""What people write: YAML and JSON with the place of each value, and JSON Schemas, read within bounds."""
