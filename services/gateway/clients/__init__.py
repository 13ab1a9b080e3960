"""What the gateway asks its neighbours."""
