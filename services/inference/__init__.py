"""Asks language and embedding models, under law and money."""
