"""Calls that let bytes out of the mesh: judged, paid for, made once. For the services that make such calls."""
