"""The outside calls in: gRPC."""
