"""Names, metrics, spans and logs, the same in every service."""
