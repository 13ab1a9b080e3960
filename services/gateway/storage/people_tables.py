"""Tables of people: who may sign in, by whose word, and whose tokens are refused."""

from sqlalchemy import ARRAY, Column, DateTime, Index, MetaData, PrimaryKeyConstraint, Table, Text, Uuid, text
from sqlalchemy import UniqueConstraint as Unique

#: `tables.py` takes them over.
PEOPLE = MetaData()

UQ_PERSON_EMAIL = "uq_person_email"
UQ_ISSUER = "uq_oidc_issuer"
PK_REVOKED_SUBJECT = "pk_revoked_subject"
PK_PERSON_AT_ISSUER = "pk_person_at_issuer"

#: A user; `user` is a word of SQL.
PERSON = Table(
    "person",
    PEOPLE,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("email", Text, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    # Since when the person has had these roles; tokens name it.
    Column("roles_time", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("last_login_time", DateTime(timezone=True)),
    Column("remove_time", DateTime(timezone=True)),
)
Index(
    UQ_PERSON_EMAIL,
    *(PERSON.c.tenant_id, PERSON.c.email),
    unique=True,
    postgresql_where=text("remove_time IS NULL"),
)
Index("ix_person_tenant_id", PERSON.c.tenant_id, PERSON.c.id)
OIDC_ISSUER = Table(
    "oidc_issuer",
    PEOPLE,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("trusted_domains", ARRAY(Text), nullable=False),
    Column("default_roles", ARRAY(Text), nullable=False),
    # Most that a sign-in by it gives. Of issuers from before the column: what who may add one holds at least.
    Column("most_roles", ARRAY(Text), nullable=False, server_default="{admin,auditor,tenant_user}"),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Unique("tenant_id", "issuer", "client_id", name=UQ_ISSUER),
)
#: Who a person is at an issuer: the claim `sub` of the first sign-in there.
PERSON_AT_ISSUER = Table(
    "person_at_issuer",
    PEOPLE,
    Column("tenant_id", Uuid, nullable=False),
    Column("person_id", Uuid, nullable=False),
    Column("oidc_issuer_id", Uuid, nullable=False),
    Column("subject", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "oidc_issuer_id", "person_id", name=PK_PERSON_AT_ISSUER),
)
#: Tokens that show a subject as it was before `revoke_time` are refused by every service. Rows older than the longest
#: life of a token say nothing any more.
REVOKED_SUBJECT = Table(
    "revoked_subject",
    PEOPLE,
    Column("tenant_id", Uuid, nullable=False),
    Column("subject", Text, nullable=False),
    Column("revoke_time", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("tenant_id", "subject", name=PK_REVOKED_SUBJECT),
)
Index("ix_revoked_subject_revoke_time", REVOKED_SUBJECT.c.revoke_time)
