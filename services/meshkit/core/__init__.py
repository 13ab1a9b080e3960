"""Errors, clock, ids, money, identity, paging and retry; standard library only, apart from the UUIDv7 source."""
