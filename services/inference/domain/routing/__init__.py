"""How a route chooses among its deployments. Pure."""
