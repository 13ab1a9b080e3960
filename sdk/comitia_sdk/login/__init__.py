"""Signs people in by the OpenID Connect provider of their tenant, and keeps them signed in."""
