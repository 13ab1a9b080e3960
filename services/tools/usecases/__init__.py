"""One verb per file: register, list, search, invoke, sweep."""
