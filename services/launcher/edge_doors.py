"""The doors of the model providers' dialects, as the edge knows them: paths, sizes, and refusals in those dialects.

Inference verifies keys and counts requests there itself, so the edge hands them on as they come.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.launcher.edge_refusals import Refusal


@dataclass(frozen=True, slots=True)
class DoorRoute:
    """Paths that lead to a door."""

    #: The path itself; one that ends with `/` stands for all that begin so.
    path: str

    @property
    def is_prefix(self) -> bool:
        """True when it stands for more than itself."""
        return self.path.endswith("/")


DOORS: Final = tuple(
    DoorRoute(path)
    for path in (
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/",
    )
)

#: Longest body, bytes: pictures and documents travel in it.
MAX_DOOR_BYTES: Final = 20 * 1024 * 1024
#: What the edge waits longer than inference does, so that inference tells the end of its time.
_MARGIN_SECONDS: Final = 2


def longest_seconds(of_guard: int) -> int:
    """Gives the longest time that the edge gives a request at a door."""
    return of_guard + _MARGIN_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorRefusal:
    """What the edge says at the doors of one dialect when it answers itself."""

    #: Matches the paths of the dialect.
    paths: str
    of: Refusal
    status: int
    body: dict[str, Any]


#: Types of errors by what the edge refuses with.
_OPENAI: Final = {
    408: "timeout",
    413: "invalid_request_error",
    429: "requests",
    503: "server_error",
    504: "server_error",
}
_ANTHROPIC: Final = {
    408: (408, "timeout_error"),
    413: (413, "request_too_large"),
    429: (429, "rate_limit_error"),
    503: (529, "overloaded_error"),
    504: (504, "timeout_error"),
}
_TOO_LARGE: Final = "the body is larger than the doors take (20 MiB); send less"


def door_refusals(refusals: Sequence[Refusal]) -> list[DoorRefusal]:
    """Gives the same refusals in the dialects of the doors."""
    return list(_door_refusals(refusals))


def _door_refusals(refusals: Sequence[Refusal]) -> Iterator[DoorRefusal]:
    for refusal in refusals:
        if refusal.details and refusal.status != 413:
            # The edge reads neither tokens nor messages there.
            continue
        message = _TOO_LARGE if refusal.status == 413 else refusal.message
        usual = "server_error" if refusal.status >= 500 else "invalid_request_error"
        error = {
            "message": message,
            "type": _OPENAI.get(refusal.status, usual),
            "param": None,
            "code": refusal.reason.lower(),
        }
        yield DoorRefusal(
            paths="/v1/(chat/completions|responses|embeddings|models)([/?].*)?",
            of=refusal,
            status=refusal.status,
            body={"error": error},
        )
        status, kind = _ANTHROPIC.get(refusal.status, (refusal.status, "api_error" if refusal.status >= 500 else usual))
        yield DoorRefusal(
            paths="/v1/messages([/?].*)?",
            of=refusal,
            status=status,
            body={
                "type": "error",
                "error": {"type": kind, "message": message},
                "request_id": "%REQ(X-REQUEST-ID)%",
            },
        )
