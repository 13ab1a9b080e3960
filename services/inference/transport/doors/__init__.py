"""HTTP in the dialects of model providers, for clients that know no other."""
