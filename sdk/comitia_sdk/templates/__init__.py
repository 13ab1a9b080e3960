"""Templates that ship with the client."""
