"""Vector stores behind one port. They find; what is found is read from Postgres."""
