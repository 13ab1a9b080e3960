"""The audit entries of one service: refused calls are recorded, and the gateway fetches all of them."""
