"""gRPC in: convert, call one use case, convert back."""
