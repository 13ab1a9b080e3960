"""Where signed heads and archived entries lie, out of reach of every role of the database."""
