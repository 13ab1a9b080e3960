"""What the client can do, one module for each noun of the contracts."""
