"""The real servers of the integration suite, for ports that are tried on the fake and on the real thing."""

from tests.integration.conftest import make_database, nats_server, postgres

__all__ = ["make_database", "nats_server", "postgres"]
