"""Pictures inside a page: small copies as data: URIs."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_EMBED_AS_IS_BYTES = 12_000
_PICTURE_PIXELS = 144


def data_uri(picture: Path | bytes | None) -> str:
    """A picture as a data: URI, a small one as it is; empty when it is missing or not a picture."""
    if picture is None:
        return ""
    try:
        content = picture if isinstance(picture, bytes) else picture.read_bytes()
    except OSError:
        return ""
    kinds = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
    kind = next((name for start, name in kinds.items() if content.startswith(start)), None)
    if kind is None or len(content) > _EMBED_AS_IS_BYTES:
        content, kind = _small(content), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}" if content else ""


def thumbnail(picture: Path | bytes | None) -> "Image.Image | None":
    """A small copy of a picture on white; None when it is missing, not a picture, or Pillow is."""
    if picture is None:
        return None
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as opened:
            opened.thumbnail((_PICTURE_PIXELS, _PICTURE_PIXELS))
            ground = Image.new("RGBA", opened.size, "white")
            ground.alpha_composite(opened.convert("RGBA"))
    except Exception:  # damaged files make decoders raise nearly anything
        return None
    return ground.convert("RGB")


def _small(content: bytes) -> bytes:
    small = thumbnail(content)
    if small is None:
        return b""
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=82)
    return stream.getvalue()
