"""The shapes of ASGI. Source: the ASGI specification, version 3.0."""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

# What stands in them differs by type and server, and applications add to scopes what they like.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def values_of(scope: Scope, *names: bytes) -> Iterator[bytes]:
    """Gives the values of all headers of these names (lower case), however the server spells the names."""
    for name, value in scope["headers"]:
        if bytes(name).lower() in names:
            yield bytes(value)


def own_path(scope: Scope) -> str:
    """Gives the path below the place where an application is mounted.

    `path` holds `root_path` by the specification, and in some frameworks it does not.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
