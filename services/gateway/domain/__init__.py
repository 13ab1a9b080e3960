"""Keys, grants and tenants: what makes them valid, and who may make them."""
