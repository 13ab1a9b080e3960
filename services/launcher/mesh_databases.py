"""The seven databases of a mesh on one server of Postgres: what they and their roles are called, and where they are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from services.launcher.errors import LauncherError

#: Roles of each service's database, as `meshkit.sql.roles` names them.
ROLES: Final = ("app", "maintenance", "migrator")
#: Variable that says what names begin with; roles belong to a whole server, so meshes that share one need two.
PREFIX_VARIABLE: Final = "COMITIA_DATABASE_PREFIX"
PREFIX: Final = "comitia"
#: 63 letters are the most, and the longest name ends in `_orchestrator_maintenance`.
_PREFIXES: Final = re.compile(r"[a-z][a-z0-9_]{0,37}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshDatabases:
    """The databases of one mesh."""

    #: Address of the server as its administrator.
    admin_url: str = field(repr=False)
    #: By `<service>/<role>`.
    passwords: Mapping[str, str] = field(repr=False)
    #: Whose they are. The server is told, so that no other mesh takes them for its own; None tells and asks nothing.
    installation: str | None
    #: What their names begin with.
    prefix: str = PREFIX

    def name(self, service: str) -> str:
        """Names a service's database."""
        return f"{self.prefix}_{service}"

    def admin_url_of(self, service: str) -> str:
        """Gives the address of a service's database as the administrator."""
        return urlsplit(self.admin_url)._replace(path=f"/{self.name(service)}").geturl()

    def url(self, service: str, role: str) -> str:
        """Gives the address of a service's database as one of its roles."""
        admin = urlsplit(self.admin_url)
        place = admin.netloc.rpartition("@")[2]
        name, password = self.name(service), quote(self.passwords[f"{service}/{role}"], safe="")
        return SplitResult("postgresql", f"{name}_{role}:{password}@{place}", f"/{name}", admin.query, "").geturl()


def prefix_from(environment: Mapping[str, str]) -> str:
    """Reads what names begin with. Raises: LauncherError: names of databases cannot begin like that."""
    prefix = environment.get(PREFIX_VARIABLE) or PREFIX
    if _PREFIXES.fullmatch(prefix) is None:
        raise LauncherError(
            f"{PREFIX_VARIABLE} is {prefix!r}; it must be a small letter and up to 37 small letters, digits or `_`"
        )
    return prefix
