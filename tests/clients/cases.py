"""What every client shows, and how it tells what came of it. Runs in the clients' own environment."""

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from pydantic import BaseModel

URL: Final = os.environ["COMITIA_URL"]
KEY: Final = os.environ["COMITIA_API_KEY"]
MODEL: Final = "gpt-4o-mini"
#: True where a client that knows both of OpenAI's dialects is to speak the newer one.
RESPONSES: Final = os.environ.get("COMITIA_DIALECT") == "responses"
#: What the tool answers, whatever the city.
WEATHER: Final = "cloudburst"

Shown = dict[str, Any]
Case = Callable[[], Awaitable[Shown]]


class River(BaseModel):
    """What is asked for as JSON of a schema."""

    name: str
    km: int


class Chat(Protocol):
    """Asks once. Gives the text and what it used: tokens in, tokens out."""

    def __call__(self, case: str, *, model: str = MODEL, key: str = KEY) -> Awaitable[Shown]: ...


def asking(case: str) -> str:
    """Gives the prompt of a case, by which the provider knows what it is to answer."""
    return f"{os.environ['COMITIA_MARK']}:{case}: What do you know?"


async def show(chat: Chat, *, stream: Case, tools: Case, schema: Case) -> None:
    """Goes through all cases and prints what came of them as one line of JSON."""
    cases: dict[str, Awaitable[Shown]] = {
        "chat": chat("chat"),
        "stream": stream(),
        "tools": tools(),
        "schema": schema(),
        "no_model": chat("no_model", model="gpt-17"),
        "no_key": chat("no_key", key="nonsense"),
        "fails_once": chat("fails_once"),
        "busy_once": chat("busy_once"),
    }
    shown: dict[str, Shown] = {}
    for name, case in cases.items():
        try:
            shown[name] = await case
        except Exception as error:  # noqa: BLE001  # whatever a client makes of a failure is what it shows
            kind = type(error)
            shown[name] = {
                "error": f"{kind.__module__.partition('.')[0]}.{kind.__name__}",
                "status": getattr(error, "status_code", None),
                "message": str(error),
            }
    sys.stdout.write(json.dumps(shown) + "\n")
