"""The table of token buckets. It belongs to no tenant, and only the role `maintenance` reaches it."""

from sqlalchemy import Column, DateTime, Double, Integer, MetaData, PrimaryKeyConstraint, Table, Text


def rate_tables(metadata: MetaData) -> None:
    """Adds the table to what a migrated database holds."""
    Table(
        "rate_bucket",
        metadata,
        Column("bucket", Text(collation="C"), nullable=False),
        Column("per_second", Double, nullable=False),
        Column("burst", Double, nullable=False),
        # As of `refill_time`; below zero when more was spent than there was.
        Column("tokens", Double, nullable=False),
        Column("refill_time", DateTime(timezone=True), nullable=False),
        # The last lease.
        Column("asked", Integer, nullable=False),
        Column("spent", Integer, nullable=False),
        Column("unused", Integer, nullable=False),
        Column("granted", Integer, nullable=False),
        PrimaryKeyConstraint("bucket", name="pk_rate_bucket"),
        prefixes=["UNLOGGED"],
    )
