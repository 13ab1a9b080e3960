"""URLs with `{argument}` places. What is put in is percent-encoded, so that it never changes where the URL leads."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import quote, urlsplit

from services.meshkit.core.errors import Invalid
from services.meshkit.core.hosts import is_allowed

_FIELD: Final = "tool.http_get.url_template"
_MAX_TEMPLATE: Final = 2_048
_PLACE: Final = re.compile(r"\{([A-Za-z0-9_]{1,64})\}")


class ArgumentUnusable(ValueError):
    """An argument cannot stand in a URL. The model reads why."""


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """A template whose places stand in path and query only."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "UrlTemplate":
        """Reads a template. Raises: Invalid."""
        if not 1 <= len(text) <= _MAX_TEMPLATE:
            raise Invalid(_FIELD, f"must be a URL of 1 to {_MAX_TEMPLATE} characters")
        if re.search(r"[^\x21-\x5b\x5d-\x7e]", text):
            raise Invalid(_FIELD, "must be ASCII without white space, backslash or control characters")
        if "{" in _PLACE.sub("", text) or "}" in _PLACE.sub("", text):
            raise Invalid(_FIELD, "a place must be written {argument}, with letters, digits and `_`")
        try:
            parts = urlsplit(text)
            host = parts.hostname
            _ = parts.port
        except ValueError as cause:
            raise Invalid(_FIELD, "is no URL") from cause
        if parts.scheme not in ("http", "https") or not host:
            raise Invalid(_FIELD, "must begin with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise Invalid(_FIELD, "must not hold a user or password")
        if "{" in parts.netloc:
            raise Invalid(_FIELD, "places may stand in path and query only, not in the host")
        if parts.fragment:
            raise Invalid(_FIELD, "must have no fragment")
        return cls(text)

    @property
    def host(self) -> str:
        """The host it leads to."""
        return urlsplit(self.text).hostname or ""

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the arguments that are put in."""
        return tuple(dict.fromkeys(_PLACE.findall(self.text)))

    def check(self, input_schema: Mapping[str, object], hosts: tuple[str, ...]) -> None:
        """Raises Invalid unless every place is a declared argument and the host may be asked."""
        properties = input_schema.get("properties")
        declared = cast("Mapping[str, object]", properties) if isinstance(properties, Mapping) else dict[str, object]()
        for place in self.places:
            if place not in declared:
                raise Invalid(_FIELD, f"{{{place}}} is no property of input_schema")
        if not is_allowed(self.host, hosts):
            raise Invalid("tool.http_get.allowed_hosts", f"must allow the host of url_template, {self.host!r}")

    def fill(self, arguments: Mapping[str, object]) -> str:
        """Puts the arguments in; a missing one leaves its place empty, what is no text is written as JSON.

        Raises: ArgumentUnusable: one would climb in the path.
        """
        path, mark, query = self.text.partition("?")
        return _fill(path, arguments, in_path=True) + mark + _fill(query, arguments, in_path=False)


def _fill(text: str, arguments: Mapping[str, object], *, in_path: bool) -> str:
    def value_of(match: re.Match[str]) -> str:
        value = arguments.get(match[1])
        if value is None:
            return ""
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        # Encoding dots does not help: servers decode them before they look for `..`.
        if in_path and text in (".", ".."):
            raise ArgumentUnusable(f"the argument {match[1]!r} must not be `.` or `..`")
        return quote(text, safe="")

    return _PLACE.sub(value_of, text)
