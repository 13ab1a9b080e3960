"""Pictures of any size, as far as their headers go: nobody here decodes one."""

import struct
import zlib


def a_png(width: int = 640, height: int = 480, *, padding: int = 0) -> bytes:
    """Writes a PNG without pixels, and so many bytes after its end."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IEND", b"") + b"\0" * padding


def a_gif(width: int = 640, height: int = 480) -> bytes:
    """Writes the start of a GIF."""
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0;"


def a_jpeg(width: int = 640, height: int = 480) -> bytes:
    """Writes a JPEG without pixels."""
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"\1\x11\0\2\x11\0\3\x11\0"
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xd9"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
