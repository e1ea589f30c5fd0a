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
ORIENTATION: Final = 0x0112
TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""
SIDES_EXCHANGED: Final = frozenset(TURNS[orientation] for orientation in (5, 6, 7, 8))


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
    orientation = source.getexif().get(ORIENTATION)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn in SIDES_EXCHANGED:
        width, height = height, width
    # Made small before it is turned, and the thumbnail from the web size: every step works on the fewest pixels.
    web_picture = _shrink(_flatten(source), WEB_PIXELS)
    if turn is not None:
        web_picture = web_picture.transpose(turn)
    web = _encode("web", web_picture)
    thumbnail = _encode("thumbnail", _shrink(web_picture, THUMBNAIL_PIXELS))
    return Renditions(kind, hashlib.sha256(body).hexdigest(), width, height, web, thumbnail)


def _flatten(picture: Image.Image) -> Image.Image:
    """RGB without transparency: what shows through is white."""
    if picture.mode in {"RGBA", "LA", "PA"} or (picture.mode == "P" and "transparency" in picture.info):
        layer = picture.convert("RGBA")
        ground = Image.new("RGB", layer.size, (255, 255, 255))
        ground.paste(layer, mask=layer.getchannel("A"))
        return ground
    if picture.mode.startswith("I"):
        # 16 bits a pixel: Pillow would cut them off at 255 instead of scaling them.
        picture = picture.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _shrink(picture: Image.Image, side_pixels: int) -> Image.Image:
    """The picture in a size that fits; one that is small enough stays as it is."""
    scale = side_pixels / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _encode(kind: str, picture: Image.Image) -> Rendition:
    out = io.BytesIO()
    # A copy without `info` carries no metadata over: neither EXIF nor a colour profile nor a comment.
    bare = picture.copy()
    bare.info.clear()
    bare.save(out, "JPEG", quality=JPEG_QUALITY, optimize=False, progressive=False, exif=b"", icc_profile=None)
    body = out.getvalue()
    return Rendition(kind, body, hashlib.sha256(body).hexdigest(), picture.width, picture.height)
