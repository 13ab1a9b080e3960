"""What holds the tables of inference together, and those that every service has."""

from typing import Final

from sqlalchemy import MetaData

from services.meshkit.sql.audit import audit_entry_tables
from services.meshkit.sql.data_keys import data_key_table
from services.meshkit.sql.request_ids import request_id_table

metadata: Final = MetaData()

data_key_table(metadata)
audit_entry_tables(metadata)
request_id_table(metadata)
