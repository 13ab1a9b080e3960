"""One verb per file: open a transaction, load, ask the domain, save, commit."""
