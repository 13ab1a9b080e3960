"""Text that must not be seen."""

import hmac
from typing import Final, NoReturn, SupportsIndex

#: What is shown in place of a secret.
MASK: Final = "***"


class Secret:
    """Holds a token or key, and shows `***` wherever it is printed, logged or formatted. `reveal()` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Gives the secret itself."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # A pickle would hold the text.
        raise TypeError("a secret is not pickled; hand on what reads it")
