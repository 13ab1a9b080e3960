"""The outside calls in: gRPC, and the messages cost publishes."""
