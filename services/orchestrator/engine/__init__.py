"""Drives runs: commits facts, then makes the calls that they ask for.

Facts are protobuf here: they are the domain's own events.
"""
