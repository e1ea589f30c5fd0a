"""Work on a picture's bytes: is it one, turn it, strip it, make it small. Pure; meant to run in another process.

What comes from outside is hostile until shown otherwise: the header is read first and its pixel count bounded before a
single pixel is decoded, so a decompression bomb costs nothing. Output is encoded with fixed parameters: the same input
gives the same bytes, which is what keys derived from content need.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Final

# Named one by one, Pillow's decoders need no search through all of its forty formats.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from eco_workers.errors import PictureError

_DECODERS: Final = (
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    GifImagePlugin.GifImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
)
FORMATS: Final = tuple(decoder.format for decoder in _DECODERS)
PIXELS_MAX: Final = 64_000_000
SIDE_PIXELS_MAX: Final = 20_000
SIDE_PIXELS_MIN: Final = 8
WEB_PIXELS: Final = 1280
THUMBNAIL_PIXELS: Final = 320
JPEG_QUALITY: Final = 85


@dataclass(frozen=True, slots=True)
class Rendition:
    """One encoded size of a picture."""

    kind: str
    body: bytes
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Renditions:
    """What became of a picture."""

    format: str
    sha256: str
    width: int
    height: int
    web: Rendition
    thumbnail: Rendition


def render(body: bytes) -> Renditions:
    """Check a picture and make its sizes: upright, without EXIF, as JPEG. PictureError for what is no picture."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Our own bound speaks first, with a clear message; Pillow's would warn at half of it.
    Image.MAX_IMAGE_PIXELS = PIXELS_MAX
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # A library may warn of odd metadata that we drop anyway.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(io.BytesIO(body), formats=FORMATS) as source:
                return _render(source, body)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"no picture: {len(body)} bytes of no known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"too many pixels: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # hostile input: any error of a decoder is the picture's fault
        # Decoders raise whatever they meet in a broken file (SyntaxError, struct.error, IndexError, ...).
        raise PictureError(f"broken picture: {type(error).__name__}: {str(error)[:200]}") from None


def _render(source: Image.Image, body: bytes) -> Renditions:
    kind = str(source.format)
    width, height = source.size
    if width * height > PIXELS_MAX:
        raise PictureError(f"too many pixels: {width}x{height}, want at most {PIXELS_MAX}")
    if max(width, height) > SIDE_PIXELS_MAX or min(width, height) < SIDE_PIXELS_MIN:
        raise PictureError(f"bad size: {width}x{height}, want sides of {SIDE_PIXELS_MIN} to {SIDE_PIXELS_MAX} pixels")
    # A JPEG decoder can skip most of the work when the result is small.
    source.draft("RGB", (WEB_PIXELS, WEB_PIXELS))
    source.load()
    upright = _flatten(ImageOps.exif_transpose(source))
    if _is_turned(source):
        width, height = height, width
    web = _encode("web", upright, WEB_PIXELS)
    thumbnail = _encode("thumbnail", upright, THUMBNAIL_PIXELS)
    return Renditions(kind, hashlib.sha256(body).hexdigest(), width, height, web, thumbnail)


def _is_turned(source: Image.Image) -> bool:
    # EXIF orientations 5 to 8 exchange width and height.
    return source.getexif().get(0x0112, 1) in {5, 6, 7, 8}


def _flatten(picture: Image.Image) -> Image.Image:
    """RGB without transparency: what shows through is white."""
    if picture.mode in {"RGBA", "LA", "PA"} or (picture.mode == "P" and "transparency" in picture.info):
        layer = picture.convert("RGBA")
        ground = Image.new("RGB", layer.size, (255, 255, 255))
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    return picture.convert("RGB")


def _encode(kind: str, picture: Image.Image, side_pixels: int) -> Rendition:
    small = picture.copy()
    small.thumbnail((side_pixels, side_pixels), Image.Resampling.LANCZOS, reducing_gap=2.0)
    # A new image carries no metadata over: neither EXIF nor a colour profile nor a comment.
    small.info.clear()
    out = io.BytesIO()
    small.save(out, "JPEG", quality=JPEG_QUALITY, optimize=False, progressive=False, exif=b"", icc_profile=None)
    body = out.getvalue()
    return Rendition(kind, body, hashlib.sha256(body).hexdigest(), small.width, small.height)
