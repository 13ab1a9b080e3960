"""Servers, channels, identity and errors on the wire: how the services of the mesh talk."""
