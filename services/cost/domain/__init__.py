"""The rules of money. Plain Python: no IO, no proto, no SQL, no clock of its own."""
