"""What comes from outside is hostile until shown otherwise; what goes out is upright, bare, always the same bytes."""

import io
import struct
import zlib

import pytest
from PIL import Image

from eco_workers.errors import PictureError
from eco_workers.storage.pictures import PIXELS_MAX, THUMBNAIL_PIXELS, WEB_PIXELS, render

ORIENTATION = 0x0112
COMMENT = 0x010E


def picture(width: int = 400, height: int = 200) -> Image.Image:
    """Left half red, right half blue: which way is up shows in the colours."""
    made = Image.new("RGB", (width, height), (220, 20, 20))
    made.paste((20, 20, 220), (width // 2, 0, width, height))
    return made


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(body: bytes) -> Image.Image:
    return Image.open(io.BytesIO(body))


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[COMMENT] = "at home, 52.5 N 13.4 E"
    return encoded(picture(), "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_known_format_gives_two_jpegs(kind: str) -> None:
    made = render(encoded(picture(), kind))
    assert made.format == kind
    assert opened(made.web.body).format == opened(made.thumbnail.body).format == "JPEG"
    assert (made.width, made.height) == (400, 200)


def test_sizes_are_bounded_and_keep_their_shape() -> None:
    made = render(encoded(picture(4000, 2000), "JPEG"))
    assert opened(made.web.body).size == (WEB_PIXELS, WEB_PIXELS // 2) == (made.web.width, made.web.height)
    assert opened(made.thumbnail.body).size == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS // 2)
    assert (made.width, made.height) == (4000, 2000)


def test_a_small_picture_is_not_blown_up() -> None:
    made = render(encoded(picture(100, 50), "PNG"))
    assert opened(made.web.body).size == (100, 50)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_by_its_exif(orientation: int) -> None:
    made = render(turned(orientation))
    upright = opened(made.web.body)
    assert upright.size == ((200, 400) if orientation >= 5 else (400, 200)) == (made.width, made.height)
    # Where the red half of the stored picture ends up, by the definition of the eight orientations.
    red_is = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    width, height = upright.size
    spot = {
        "left": (width // 8, height // 2),
        "right": (width * 7 // 8, height // 2),
        "top": (width // 2, height // 8),
        "bottom": (width // 2, height * 7 // 8),
    }[red_is]
    red, _, blue = upright.convert("RGB").getpixel(spot)  # type: ignore[misc]  # RGB has three values
    assert red > blue


def test_nothing_of_the_exif_is_left() -> None:
    body = turned(6)
    assert b"52.5 N" in body
    made = render(body)
    for rendition in (made.web, made.thumbnail):
        assert b"52.5 N" not in rendition.body
        assert b"Exif" not in rendition.body
        assert not opened(rendition.body).getexif()


def test_the_same_bytes_in_give_the_same_bytes_out() -> None:
    body = encoded(picture(), "PNG")
    assert render(body).web.sha256 == render(body).web.sha256


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert opened(render(encoded(clear, "PNG")).web.body).getpixel((32, 32)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("I;16", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG")],
)
def test_each_mode_of_pixels_keeps_its_light(mode: str, kind: str) -> None:
    """A ramp from black to white stays one, also out of a palette, of four inks or of sixteen bits."""
    ramp = Image.linear_gradient("L").resize((2000, 1500))
    source = (
        ramp.convert("I").point(lambda value: value * 257).convert("I;16") if mode == "I;16" else ramp.convert(mode)
    )
    light = opened(render(encoded(source, kind)).web.body).convert("L").resize((1, 4), Image.Resampling.BOX)
    values = [light.getpixel((0, row)) for row in range(4)]
    assert values == pytest.approx([32, 96, 159, 223], abs=6)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no picture"),
        (b"hello", "no picture"),
        (b"\xff\xd8\xff\xe0 and then nothing of a picture", "picture"),
        (encoded(picture(), "JPEG")[:700], "broken picture"),
        (encoded(picture(), "PNG")[:-30], "broken picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
        (b"%PDF-1.7 ...", "no picture"),
        (bomb(30_000, 30_000), "too many pixels"),
        (bomb(9_000, 9_000), "too many pixels"),
        (bomb(60_000, 100), "bad size"),
        (bomb(0, 5), "picture"),
        (encoded(picture(4, 4), "PNG"), "bad size"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        render(body)


def test_a_bomb_is_refused_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_picture: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    assert PIXELS_MAX < 9_000 * 9_000
    with pytest.raises(PictureError, match="too many pixels"):
        render(bomb(9_000, 9_000))
