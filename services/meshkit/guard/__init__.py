"""What guards the doors of a service: who may come in, who no longer may, and which tenants may work."""
