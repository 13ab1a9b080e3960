"""Drives runs: commits facts, then makes the calls that they ask for. Facts are protobuf here, the domain's own events."""
