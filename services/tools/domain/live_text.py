"""Text of a result while it comes: when it is shown to the law, and how much of it may then be shown to the reader."""

from typing import Final

#: Waiting characters that are worth a look of the law.
_WORTH_A_LOOK: Final = 2_048
#: Share of the text so far that has to wait: bounds the judged text to a few times the result.
_SHARE: Final = 2


class LiveText:
    """Collects text. `due` gives what to judge; `passed` takes the law's version of it and gives what to release."""

    def __init__(self) -> None:
        self.text = ""
        self._judged = 0
        self._released = ""
        self._closed = False

    def add(self, text: str) -> None:
        """Takes text from the tool."""
        self.text += text

    def due(self) -> str | None:
        """Gives the text so far, up to a white space, when it is time to judge it."""
        waiting = len(self.text) - self._judged
        if self._closed or waiting < max(_WORTH_A_LOOK, len(self.text) // _SHARE):
            return None
        cut = max(self.text.rfind(mark, self._judged) for mark in " \n\t") + 1
        if cut <= self._judged:
            return None
        self._judged = cut
        return self.text[:cut]

    def passed(self, text: str) -> str:
        """Takes the text as the law leaves it and gives what is new in it.

        When the law changes text that was released already, nothing more is released: only the whole result, which
        comes at the end, can say it right.
        """
        if not text.startswith(self._released):
            self._closed = True
            return ""
        fresh = text[len(self._released) :]
        self._released = text
        return fresh
