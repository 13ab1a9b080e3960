"""What a service says about each of its tables: what becomes of a tenant's rows when the tenant is erased.

Every table with a tenant has a statement, in `services/<service>/storage/tenant_data.py`; a test asks for them from the
database's own catalogue. The migrator grants role `maintenance` what the statements need, and nothing more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.meshkit.core.tenant import ErasureAction
from services.meshkit.sql.identifiers import checked, quoted

#: Name of the module of a service, below `storage`, and of what it states.
MODULE: Final = "tenant_data"
STATED: Final = "TENANT_DATA"
#: Of a bytea column: nothing is left.
NOTHING: Final = "''"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatement:
    """What becomes of the tenant's rows of one table."""

    table: str
    action: ErasureAction
    #: Why rows stay; empty for those that are deleted.
    reason: str = ""
    #: Columns of kept rows that hold words of the tenant, with the SQL literal they get.
    blank: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        checked(self.table)
        for column in self.blank:
            checked(column)
        if (self.action is ErasureAction.DELETE) != (not self.reason):
            raise ValueError(f"{self.table}: rows that stay need a reason, and only they")
        if self.blank and self.action is not ErasureAction.KEEP:
            raise ValueError(f"{self.table}: only kept rows are blanked")


def deleted(table: str) -> TableStatement:
    """States that the rows go."""
    return TableStatement(table=table, action=ErasureAction.DELETE)


def kept(table: str, reason: str, **blank: str) -> TableStatement:
    """States that the rows stay, without the words in these columns."""
    return TableStatement(table=table, action=ErasureAction.KEEP, reason=reason, blank=blank)


def unreadable(table: str, reason: str) -> TableStatement:
    """States that the rows stay sealed by a key that is destroyed."""
    return TableStatement(table=table, action=ErasureAction.DESTROY_KEY, reason=reason)


#: What meshkit's own tables need; a service that has them states them.
DATA_KEY: Final = unreadable("data_key", "wrapped keys are destroyed; that they were there stays on record")
AUDIT_ENTRY: Final = kept("audit_entry", "the audit trail stays, without content")
REQUEST_ID: Final = deleted("request_id")
OUTBOX: Final = deleted("outbox")


def grants(statements: Sequence[TableStatement], role: str) -> list[str]:
    """Gives what lets role `maintenance` erase as stated. Harmless to repeat."""
    given: list[str] = []
    for statement in statements:
        table = quoted(statement.table)
        if statement.action is ErasureAction.DELETE:
            given.append(f"GRANT SELECT, DELETE ON {table} TO {quoted(role)}")
        else:
            given.append(f"GRANT SELECT ON {table} TO {quoted(role)}")
        if statement.blank:
            columns = ", ".join(quoted(column) for column in statement.blank)
            given.append(f"GRANT UPDATE ({columns}) ON {table} TO {quoted(role)}")
    return given
