"""NATS: durable messages on JetStream, and live text that nobody misses when it is lost."""
