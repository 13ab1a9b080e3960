"""Registers tools and calls them, under law and money. The only place where bytes leave for a tool."""
