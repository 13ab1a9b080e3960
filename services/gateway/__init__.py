"""Gateway: who may come in. API keys, access tokens, grants, tenants; what the edge asks, and the state of the mesh."""
