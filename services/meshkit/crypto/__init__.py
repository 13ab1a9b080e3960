"""Seals payloads with a data key per tenant, and commits to them so that order is provable without content."""
