"""Pictures and PDFs as inputs: what they really are, how large, and what the law is shown of them.

Nothing is decoded: types and sizes are read from headers, so that a hostile one costs nobody any time here.
"""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import imagesize

from services.inference.domain.errors import MediaInvalid
from services.meshkit.content import DocumentPart, ImagePart, Part, TextPart

#: All pictures and documents of a prompt, bytes.
MAX_MEDIA_BYTES: Final = 20 * 1024 * 1024
#: One side of a picture, pixels.
MAX_SIDE: Final = 8_000
PDF: Final = "application/pdf"
_PDF_START: Final = b"%PDF-"
PICTURES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels of a picture."""

    width: int
    height: int


def check_picture(part: ImagePart, place: str) -> None:
    """Looks at a picture.

    Raises: MediaInvalid, naming the field: it is none, or not the one that it says it is, or too large.
    """
    real = _real_type(part.data)
    if real is None:
        raise MediaInvalid(f"{place}.image.data", f"is no picture of the types {', '.join(PICTURES)}")
    if part.media_type != real:
        raise MediaInvalid(f"{place}.image.media_type", f"is not what the picture is, which is {real}")
    size = size_of(part)
    if size.width < 1 or size.height < 1:
        raise MediaInvalid(f"{place}.image.data", "does not say how large the picture is")
    if max(size.width, size.height) > MAX_SIDE:
        raise MediaInvalid(f"{place}.image.data", f"is {size.width} x {size.height} pixels; a side may have {MAX_SIDE}")


def check_document(part: DocumentPart, place: str) -> None:
    """Looks at a document.

    Raises: MediaInvalid, naming the field: it says that it is a PDF and is none, or the other way round, or it is
        neither a PDF nor UTF-8.
    """
    if (part.media_type == PDF) != part.data.startswith(_PDF_START):
        raise MediaInvalid(f"{place}.document.media_type", "must be application/pdf for a PDF, and for nothing else")
    if part.media_type == PDF:
        return
    try:
        part.data.decode()
    except UnicodeDecodeError as cause:
        raise MediaInvalid(f"{place}.document.data", "must be UTF-8") from cause


def is_pdf(part: Part) -> bool:
    """Says whether a part is a PDF."""
    return isinstance(part.content, DocumentPart) and part.content.media_type == PDF


def media_bytes(part: Part) -> int:
    """Gives how much of what is no text a part holds."""
    match part.content:
        case ImagePart(data=data):
            return len(data)
        case DocumentPart(data=data) if is_pdf(part):
            return len(data)
        case _:
            return 0


def size_of(part: ImagePart) -> Size:
    """Reads the size of a picture; not positive where it does not say."""
    # Typed in part.
    width, height = imagesize.get(BytesIO(part.data), exif_rotation=False)  # pyright: ignore[reportUnknownMemberType]
    return Size(width, height)


def shown_to_law(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Gives the parts as the law is shown them: a picture or a PDF as a line that says which one it is."""
    return tuple(_stand_in(part) for part in parts)


def as_law_left(parts: tuple[Part, ...], judged: tuple[Part, ...]) -> tuple[Part, ...]:
    """Puts what had a stand-in back in its place; one that the law changed stays what it made of it."""
    return tuple(
        part if after.content == _stand_in(part).content else after for part, after in zip(parts, judged, strict=True)
    )


def _stand_in(part: Part) -> Part:
    match part.content:
        case ImagePart(media_type=media_type, data=data):
            size = size_of(part.content)
            text = f"[picture {media_type} {size.width}x{size.height} sha256:{hashlib.sha256(data).hexdigest()}]"
        case DocumentPart(media_type=media_type, data=data, title=title) if media_type == PDF:
            text = f"[document {media_type} {len(data)} bytes sha256:{hashlib.sha256(data).hexdigest()}] {title}"
        case _:
            return part
    return Part(TextPart(text), part.label)


def _real_type(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None
