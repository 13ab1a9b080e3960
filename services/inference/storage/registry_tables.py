"""The tables of deployments, versions and routes. `migrations/` makes them, and has every change noted."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.inference.storage.metadata import metadata

UQ_MODEL_DEPLOYMENT_NAME: Final = "uq_model_deployment_name"

model_deployment: Final = Table(
    "model_deployment",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("deployment_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("created_time", DateTime(timezone=True), nullable=False),
    Column("retired_time", DateTime(timezone=True)),
    PrimaryKeyConstraint("tenant_id", "deployment_id", name="pk_model_deployment"),
    Index(UQ_MODEL_DEPLOYMENT_NAME, "tenant_id", "name", unique=True, postgresql_where=text("retired_time IS NULL")),
)

model_version: Final = Table(
    "model_version",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("deployment_id", Uuid, nullable=False),
    Column("version", Integer, nullable=False),
    # All that the contract's `ModelVersion` says and no column here does.
    Column("spec", JSONB, nullable=False),
    # Key of the provider, sealed.
    Column("secret", LargeBinary),
    Column("state", Text, nullable=False),
    # What the check found.
    Column("failures", ARRAY(Text), nullable=False, server_default="{}"),
    Column("created_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "deployment_id", "version", name="pk_model_version"),
)

model_route: Final = Table(
    "model_route",
    metadata,
    Column("tenant_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("spec", JSONB, nullable=False),
    # Grows by one with each change; the basis of `etag`.
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "name", name="pk_model_route"),
)

#: One row: the number of the last change.
registry_version: Final = Table(
    "registry_version",
    metadata,
    Column("single", Boolean, primary_key=True, server_default=text("true")),
    Column("version", BigInteger, nullable=False),
)

registry_change: Final = Table(
    "registry_change",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    # `deployment`, `route` or `rollout`; `about` is the id, or the name of the route.
    Column("noun", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("changed_tenant", Uuid, nullable=False),
    Column("change_time", DateTime(timezone=True), nullable=False),
    Index("ix_registry_change_change_time", "change_time"),
)
