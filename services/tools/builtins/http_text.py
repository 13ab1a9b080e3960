"""The text of an answer, decoded while it comes."""

import codecs
import re
from typing import Final

from services.tools.domain.tool import MAX_RESPONSE_BYTES

_TEXT_TYPES: Final = re.compile(
    r"text/.+|application/(json|xml|yaml|x-yaml|x-ndjson|javascript|xhtml\+xml|.+\+(json|xml|yaml))"
)
_CHARSETS: Final = re.compile(
    r"utf-?8(-sig)?|utf-?16(-?[lb]e)?|us-ascii|ascii|latin-?1|iso-?8859-?\d{1,2}|windows-125\d|cp125\d|koi8-[ru]"
    r"|shift_?jis|euc-(jp|kr)|iso-2022-jp|gb2312|gbk|gb18030|big5"
)


def is_text(media_type: str) -> bool:
    """Tells whether a media type (without parameters) stands for text. An answer without one is taken for text."""
    return not media_type or _TEXT_TYPES.fullmatch(media_type.lower()) is not None


class TextReader:
    """Decodes at most `most_bytes` of an answer. What cannot be decoded becomes U+FFFD."""

    def __init__(self, *, charset: str | None, most_bytes: int) -> None:
        name = (charset or "utf-8").lower()
        self._decoder = codecs.getincrementaldecoder(name if _CHARSETS.fullmatch(name) else "utf-8")("replace")
        self._left = self._most_bytes = most_bytes
        self._pieces: list[str] = []
        self.is_cut = False

    def feed(self, data: bytes) -> str:
        """Takes bytes and gives the text that they add."""
        if len(data) > self._left:
            data, self.is_cut = data[: self._left], True
        self._left -= len(data)
        piece = self._decoder.decode(data)
        self._pieces.append(piece)
        return piece

    def text(self) -> str:
        """Gives all of the text; when it was cut, it says so at its end."""
        whole = "".join((*self._pieces, self._decoder.decode(b"", final=not self.is_cut)))
        note = f"\n[cut after {self._most_bytes} bytes]" if self.is_cut else ""
        # Other encodings grow as UTF-8, and a part of text has a bound.
        encoded = whole.encode("utf-8", "replace")
        if len(encoded) + len(note) > MAX_RESPONSE_BYTES:
            note = f"\n[cut after {MAX_RESPONSE_BYTES} bytes]"
            whole = encoded[: MAX_RESPONSE_BYTES - len(note)].decode("utf-8", "ignore")
        return whole + note
