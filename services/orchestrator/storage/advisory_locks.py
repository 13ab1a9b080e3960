"""Classes of the advisory locks of this database, all of them: two that share a class would wait for each other."""

from typing import Final

#: Of shards, by number: commits share them, whoever takes a shard over holds them alone.
SHARD_LOCK: Final = 1936220516
#: Of what one tenant does one after the other, by the tenant: starts of runs, new agents, new workflows.
STARTS_LOCK: Final = 1919249001
AGENTS_LOCK: Final = 1919249002
WORKFLOWS_LOCK: Final = 1919249003
#: Of the replica that deletes a run whose time is over.
DELETIONS_LOCK: Final = 1919249004
#: Of what estimates learn, by the tenant.
ESTIMATES_LOCK: Final = 1919249005
