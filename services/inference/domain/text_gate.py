"""When streamed text is shown to the law, and how much of it may then be shown to the reader.

Text is held back until a sentence or line ends, or 80 characters wait; longer answers wait for more, so that judging
all of the text at each release stays cheap (the law sees the whole text, not the piece: a rule may span pieces).
"""

from typing import Final

#: Waiting characters that are released even without the end of a sentence.
RELEASE_CHARACTERS: Final = 80
#: Share of the text so far that has to wait for the next look at it: bounds the judged text to 17 times the answer.
_SHARE: Final = 16
_ENDS: Final = (".", "!", "?", "\n", "\u3002", "\uff01", "\uff1f", ":", ";")


class TextGate:
    """Collects an answer and says what of it may be released.

    `due` gives the text to judge, when it is time; `passed` takes the law's version of it and gives what to release.

    Args:
        released: text that the answer begins with, and that was released already.
    """

    def __init__(self, released: str = "") -> None:
        self.text = released
        self._judged = len(released)
        self._released = released
        self._closed = False

    @property
    def released(self) -> str:
        """All text that was released."""
        return self._released

    def add(self, text: str) -> None:
        """Takes text from the provider."""
        self.text += text

    def due(self) -> str | None:
        """Gives the text up to the last boundary when it is time to judge it, else None."""
        if self._closed:
            return None
        waiting = self.text[self._judged :]
        if len(waiting) < len(self.text) // _SHARE:
            return None
        boundary = _boundary(waiting)
        if boundary == 0:
            return None
        self._judged += boundary
        return self.text[: self._judged]

    def passed(self, text: str) -> str:
        """Takes the text as the law leaves it and gives what is new in it.

        When the law changes text that was released already, nothing more is released: only the whole answer, which
        comes at the end, can say it right.
        """
        if not text.startswith(self._released):
            self._closed = True
            return ""
        fresh = text[len(self._released) :]
        self._released = text
        return fresh


def _boundary(waiting: str) -> int:
    """Gives the length of the part of `waiting` that may be judged, 0 for none.

    A sentence counts as ended when white space follows it, so that `3.14` is not cut in two.
    """
    for position in range(len(waiting) - 1, 0, -1):
        if waiting[position].isspace() and (waiting[position - 1] in _ENDS or waiting[position] == "\n"):
            return position + 1
    if len(waiting) < RELEASE_CHARACTERS:
        return 0
    cut = max(waiting.rfind(" "), waiting.rfind("\n")) + 1
    return cut if cut > 0 else len(waiting)
