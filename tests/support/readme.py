"""The snippets of README.md, docs/budgets.md and docs/models.md: what its code blocks say about how they are run."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
README: Final = CHECKOUT / "README.md"
#: Its snippets run on a mesh, after those of README.md with `setup`.
BUDGETS: Final = CHECKOUT / "docs" / "budgets.md"
#: Its snippets are one walk on a mesh, with the key and the address of a provider.
MODELS: Final = CHECKOUT / "docs" / "models.md"
_BLOCK: Final = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """One code block, as ```` ```bash run=mesh shows=word ````."""

    language: str
    #: `fresh`: on a fresh machine. `setup`: before those of `mesh`. `mesh`: on a running mesh. `own-key`: starts one.
    #: `provider`: on a running mesh, with an OpenID Connect provider beside it.
    run: str
    #: What its output holds.
    shows: str
    code: str

    @property
    def name(self) -> str:
        """Its language and first line, for test ids."""
        return f"{self.language}: {self.code.splitlines()[0][:50]}"


def snippets(page: Path = README) -> list[Snippet]:
    """Gives the code blocks of a page that name a language, in order."""
    found: list[Snippet] = []
    for language, marks, code in _BLOCK.findall(page.read_text(encoding="utf-8")):
        values = dict(mark.partition("=")[::2] for mark in marks.split())
        found.append(Snippet(language, values.get("run", ""), values.get("shows", ""), code))
    return found
