"""Results of equal calls, kept for as long as their tools say. Bounded in bytes; the one not used for longest goes.

What is kept is what the tool said, before law: each call from cache is judged anew, under the law of its day.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import rfc8785

from services.meshkit.core.identity import TenantId
from services.tools.domain.invocation import ToolOutput
from services.tools.domain.tool import Tool

#: What an entry takes beside its text.
_OVERHEAD_BYTES: Final = 256

_Key = tuple[TenantId, bytes, bytes]


@dataclass(frozen=True, slots=True)
class _Entry:
    output: ToolOutput
    size: int
    expires: float


class ResultCache:
    """Keeps results by tenant, definition and arguments.

    Args:
        now: seconds of a clock that never runs backwards.
        most_bytes: of all results together; 0 keeps none.
    """

    def __init__(self, *, now: Callable[[], float], most_bytes: int) -> None:
        self._now = now
        self._most_bytes = most_bytes
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """What the kept results take."""
        return self._bytes

    def get(
        self, tenant: TenantId, tool: Tool, arguments: Mapping[str, object], *, hosts: tuple[str, ...] = ()
    ) -> ToolOutput | None:
        """Gives the result of an equal call, None when there is none that still holds.

        Args:
            hosts: that the tenant allows: what was fetched under other rules is another result.
        """
        if not tool.cache_ttl_seconds:
            return None
        key = _key(tenant, tool, arguments, hosts)
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires <= self._now():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry.output

    def put(
        self,
        tenant: TenantId,
        tool: Tool,
        arguments: Mapping[str, object],
        output: ToolOutput,
        *,
        hosts: tuple[str, ...] = (),
    ) -> None:
        """Keeps a result, unless it failed, its tool keeps none, or it is too large to be worth its place."""
        size = len(output.text.encode()) + _OVERHEAD_BYTES
        if output.failed or not tool.cache_ttl_seconds or size > self._most_bytes // 4:
            return
        key = _key(tenant, tool, arguments, hosts)
        self._drop(key)
        self._entries[key] = _Entry(output, size, self._now() + tool.cache_ttl_seconds)
        self._bytes += size
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size


def _key(tenant: TenantId, tool: Tool, arguments: Mapping[str, object], hosts: tuple[str, ...]) -> _Key:
    # JSON, open by nature.
    value: Any = [dict(arguments), list(hosts)]
    return tenant, tool.digest, sha256(rfc8785.dumps(value)).digest()
