"""Pictures as inputs: what they really are, how large, and what the law is shown of them.

Nothing is decoded: types and sizes are read from headers, so that a hostile picture costs nobody any time here.
"""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import imagesize

from services.inference.domain.errors import MediaInvalid
from services.meshkit.content import ImagePart, Part, TextPart

#: All pictures and documents of a prompt, bytes.
MAX_MEDIA_BYTES: Final = 20 * 1024 * 1024
#: One side of a picture, pixels.
MAX_SIDE: Final = 8_000
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


def size_of(part: ImagePart) -> Size:
    """Reads the size of a picture; not positive where it does not say."""
    # Typed in part.
    width, height = imagesize.get(BytesIO(part.data), exif_rotation=False)  # pyright: ignore[reportUnknownMemberType]
    return Size(width, height)


def shown_to_law(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Gives the parts as the law is shown them: a picture as a line that says which one it is."""
    return tuple(_stand_in(part) for part in parts)


def as_law_left(parts: tuple[Part, ...], judged: tuple[Part, ...]) -> tuple[Part, ...]:
    """Puts the pictures back in the place of their stand-ins; one that the law changed stays what it made of it."""
    return tuple(
        part if after.content == _stand_in(part).content else after for part, after in zip(parts, judged, strict=True)
    )


def _stand_in(part: Part) -> Part:
    if not isinstance(part.content, ImagePart):
        return part
    size, digest = size_of(part.content), hashlib.sha256(part.content.data).hexdigest()
    text = f"[picture {part.content.media_type} {size.width}x{size.height} sha256:{digest}]"
    return Part(TextPart(text), part.label)


def _real_type(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    return "image/webp" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None
