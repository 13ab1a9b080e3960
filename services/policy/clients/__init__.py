"""We call out: wakes over NATS."""
