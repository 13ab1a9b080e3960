"""The tools that a tenant has: its own and those that ship with the mesh, and which of them may be called."""

from collections.abc import Iterable, Sequence
from typing import Final

from services.meshkit.core.errors import Invalid
from services.meshkit.core.identity import TenantId
from services.meshkit.core.tenant import KnowsTenants, rules_of
from services.tools.domain.errors import ToolNotFound, ToolVersionExists
from services.tools.domain.reference import Reference, Version, parse_version
from services.tools.domain.tool import Tool
from services.tools.domain.tool_rule import ToolRule
from services.tools.usecases.ports import ToolStore

MAX_NAMES: Final = 64

Place = tuple[str, str]


class Catalogue:
    """Answers for both kinds of tools as for one. A tenant's version of a shipped tool counts for that tenant."""

    def __init__(self, *, tools: ToolStore, shipped: Sequence[Tool], tenants: KnowsTenants) -> None:
        self._tools = tools
        self._shipped = tuple(shipped)
        self._tenants = tenants

    def rule(self, tenant: TenantId) -> ToolRule:
        """Gives which tools the tenant's own rules let be called, as of now."""
        return ToolRule.of(rules_of(self._tenants, tenant).security_policy)

    async def add(self, tenant: TenantId, tool: Tool) -> Tool:
        """Stores a checked version, or gives the one that exists with the same definition.

        Raises: ToolVersionExists: it has another definition. TooManyTools.
        """
        for known in self._shipped:
            if known.reference == tool.reference:
                if known.digest != tool.digest:
                    raise ToolVersionExists(tool.reference)
                return known
        return await self._tools.add(tenant, tool)

    async def find(self, tenant: TenantId, reference: Reference) -> Tool:
        """Gives a version, the highest one when the reference names none; also one that may not be called.

        Raises: ToolNotFound.
        """
        found = await self._candidates(tenant, [reference])
        if not found:
            raise ToolNotFound(str(reference))
        return max(found, key=_version)

    async def named(
        self,
        tenant: TenantId,
        references: Sequence[Reference],
        *,
        rule: ToolRule,
        after: Place | None,
        most: int,
    ) -> list[Tool]:
        """Gives those that exist of 1 to 64 tools and that the rule allows, each once, as `page` does.

        Raises: Invalid: more than 64.
        """
        if len(references) > MAX_NAMES:
            raise Invalid("names", f"must have at most {MAX_NAMES} names")
        found = _allowed(rule, await self._candidates(tenant, references))
        chosen: dict[str, Tool] = {}
        for reference in references:
            fitting = [tool for tool in found if _fits(tool, reference)]
            if fitting:
                tool = max(fitting, key=_version)
                chosen[tool.reference] = tool
        return _after(chosen.values(), after)[:most]

    async def page(self, tenant: TenantId, *, rule: ToolRule, after: Place | None, most: int) -> list[Tool]:
        """Gives versions that the rule allows by name, then version, those after a place."""
        own = await self._tools.page(tenant, after=after, most=most, names=rule.names)
        return _after([*own, *_allowed(rule, self._shipped)], after)[:most]

    async def newest(self, tenant: TenantId, *, most: int) -> list[Tool]:
        """Gives the highest version of each tool that may be called, by name."""
        rule = self.rule(tenant)
        own = await self._tools.newest(tenant, most=most, names=rule.names)
        highest: dict[str, Tool] = {}
        for tool in (*_allowed(rule, self._shipped), *own):
            known = highest.get(tool.name)
            if known is None or _version(known) < _version(tool):
                highest[tool.name] = tool
        return sorted(highest.values(), key=_place)

    async def _candidates(self, tenant: TenantId, references: Sequence[Reference]) -> list[Tool]:
        """Gives at least the tools that fit: of names without version also lower ones."""
        shipped = [tool for tool in self._shipped if _fits_any(tool, references)]
        return [*shipped, *await self._tools.find(tenant, references)]


def _allowed(rule: ToolRule, tools: Iterable[Tool]) -> list[Tool]:
    return [tool for tool in tools if rule.allows(tool)]


def _fits(tool: Tool, reference: Reference) -> bool:
    return tool.name == reference.name and reference.version in ("", tool.version)


def _fits_any(tool: Tool, references: Iterable[Reference]) -> bool:
    return any(_fits(tool, reference) for reference in references)


def _after(tools: Iterable[Tool], after: Place | None) -> list[Tool]:
    """Sorts by name, then version, and leaves out what does not stand after the place."""
    ordered = sorted(tools, key=_place)
    if after is None:
        return ordered
    start = (after[0], parse_version(after[1], field="page_token"))
    return [tool for tool in ordered if _place(tool) > start]


def _version(tool: Tool) -> Version:
    return parse_version(tool.version, field="version")


def _place(tool: Tool) -> tuple[str, Version]:
    return tool.name, _version(tool)
