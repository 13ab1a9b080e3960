"""What a call takes, as far as one can tell before it is made."""

from typing import Final

from services.inference.domain.media import is_pdf
from services.inference.domain.prompt import Prompt
from services.meshkit.content import DocumentPart, ImagePart, Part, TextPart, ToolResultPart, Usage

_LETTERS_OF_A_TOKEN: Final = 4
#: Few answers are as long as they may be.
_SHARE_OF_LONGEST: Final = 4
_PICTURE_TOKENS: Final = 1_000
_PDF_TOKENS: Final = 20_000


def likely_usage(prompt: Prompt) -> Usage:
    """Gives a guess, cheap to make: its error is made good once the usage is known."""
    return Usage(input=sum(map(_tokens, prompt.parts)), output=prompt.max_output_tokens // _SHARE_OF_LONGEST)


def _tokens(part: Part) -> int:
    match part.content:
        case TextPart(text) | ToolResultPart(text=text):
            return len(text) // _LETTERS_OF_A_TOKEN
        case ImagePart():
            return _PICTURE_TOKENS
        case DocumentPart() if is_pdf(part):
            return _PDF_TOKENS
        case DocumentPart(data=data):
            return len(data) // _LETTERS_OF_A_TOKEN
        case _:
            return 0
