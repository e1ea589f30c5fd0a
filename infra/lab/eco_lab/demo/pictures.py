"""Uploads as people send them: photographs in several formats, sizes and turns, and files broken on purpose.

The photographs are those inside the scikit-image wheel; crop, size, format and turn come from a seeded generator, so a
run can be repeated. What was made once is kept in a directory of the lab's cache: encoding 500 pictures takes longer
than working on them.
"""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Final

import PIL
from PIL import ExifTags, Image, ImageOps

SEED: Final = 20_261_121
LAYOUT: Final = 6
"""Raised by hand when a change of this module makes other bytes, so that an older cache is not taken for new."""

PHOTOGRAPHS: Final = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
EDGES_PX: Final = (480, 640, 800, 1024, 1600, 2048)
EDGE_WEIGHTS: Final = (8, 8, 8, 4, 2, 1)
FORMATS: Final = ("JPEG", "WEBP", "PNG")
FORMAT_WEIGHTS: Final = (7, 2, 1)
SUFFIX: Final = {"JPEG": "jpg", "WEBP": "webp", "PNG": "png"}
CONTENT_TYPE: Final = {"jpg": "image/jpeg", "webp": "image/webp", "png": "image/png"}
BOMB_EDGE_PX: Final = 30_000
"""900 megapixels out of a file of about 110 KB."""
TOO_LARGE_BYTES: Final = 26 * 1024 * 1024
"""Above the 25 MiB that the storage role reads at most."""


class Flaw(StrEnum):
    """How a file is broken on purpose."""

    TRUNCATED = "truncated"
    NOT_A_PICTURE = "not-a-picture"
    EMPTY = "empty"
    BOMB = "decompression-bomb"
    TOO_LARGE = "too-large"


FLAW_CYCLE: Final = (
    Flaw.TRUNCATED, Flaw.NOT_A_PICTURE, Flaw.EMPTY, Flaw.BOMB, Flaw.TRUNCATED, Flaw.NOT_A_PICTURE, Flaw.EMPTY,
    Flaw.TRUNCATED, Flaw.NOT_A_PICTURE, Flaw.TOO_LARGE,
)  # fmt: skip
"""The order in which flaws are dealt out; the large file is rare because it costs the upload seconds."""


class PicturesMissingError(Exception):
    """The photographs cannot be found: scikit-image is not installed beside this program."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One upload: a file beside what is known of it in advance."""

    name: str
    sha256: str
    flaw: Flaw | None
    width: int
    """Of the picture when upright, in pixels; 0 for a broken file."""
    height: int
    orientation: int
    """The EXIF turn written into the file, 1 to 8; 1 means upright."""

    @property
    def key(self) -> str:
        """Where the upload lies in the bucket."""
        return f"uploads/{self.name}"

    @property
    def content_type(self) -> str:
        """What an honest client would declare."""
        return CONTENT_TYPE.get(self.name.rpartition(".")[2], "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Album:
    """All uploads of one run, and the directory that holds their bytes."""

    directory: Path
    pictures: tuple[Picture, ...]

    def body(self, picture: Picture) -> bytes:
        """Bytes of one upload."""
        return (self.directory / picture.name).read_bytes()


def photographs() -> tuple[Path, ...]:
    """Paths of the photographs inside the installed scikit-image, without importing it (that would load NumPy)."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise PicturesMissingError(
            "the demo works on the photographs that ship with scikit-image, and it is not installed here; "
            "`make setup` installs it, or: pip install 'eco-lab[demo]'"
        )
    folder = Path(found.origin).parent / "data"
    paths = tuple(folder / name for name in PHOTOGRAPHS)
    absent = [path.name for path in paths if not path.exists()]
    if absent:
        raise PicturesMissingError(f"this scikit-image ({folder}) lacks the photographs {', '.join(absent)}")
    return paths


def album(cache: Path, *, good: int, broken: int, seed: int = SEED) -> Album:
    """Pictures of a run: taken from the cache when an equal set was made before, made otherwise."""
    recipe = f"{LAYOUT} {seed} {good} {broken} pillow {PIL.__version__}"
    directory = cache / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    index = directory / "index.json"
    if not index.exists():
        _make(directory, good=good, broken=broken, seed=seed)
    rows = json.loads(index.read_text())
    return Album(directory, tuple(Picture(**{**row, "flaw": row["flaw"] and Flaw(row["flaw"])}) for row in rows))


def _make(directory: Path, *, good: int, broken: int, seed: int) -> None:
    sources = [Image.open(path).convert("RGB") for path in photographs()]
    draft = directory.with_name(f"{directory.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)

    def one(number: int) -> Picture:
        picture, body = photograph(sources, number, Random(f"{seed}/{number}"))  # noqa: S311  # repeatable, no secret
        (draft / picture.name).write_bytes(body)
        return picture

    # Pillow gives up the interpreter's lock while it scales and encodes, so threads use both cores.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        pictures = list(pool.map(one, range(good)))
    for number, flaw in enumerate(islice(cycle(FLAW_CYCLE), broken)):
        picture, body = broken_file(flaw, number, sources[number % len(sources)])
        (draft / picture.name).write_bytes(body)
        pictures.append(picture)
    Random(seed).shuffle(pictures)  # noqa: S311  # repeatable, no secret
    (draft / "index.json").write_text(json.dumps([asdict(picture) for picture in pictures]))
    shutil.rmtree(directory, ignore_errors=True)
    draft.rename(directory)


def photograph(sources: list[Image.Image], number: int, random: Random) -> tuple[Picture, bytes]:
    """Picture number `number`: a random part of a random photograph, encoded and turned as a phone would."""
    source = random.choice(sources)
    edge = random.choices(EDGES_PX, EDGE_WEIGHTS)[0]
    kind = random.choices(FORMATS, FORMAT_WEIGHTS)[0]
    if kind == "PNG":
        edge = min(edge, 800)  # larger ones only cost time: nobody photographs into PNG
    share = random.uniform(0.6, 1.0)
    width, height = (max(1, int(side * share)) for side in source.size)
    left, top = random.randint(0, source.width - width), random.randint(0, source.height - height)
    scale = edge / max(width, height)
    upright = source.resize(
        (max(1, round(width * scale)), max(1, round(height * scale))),
        Image.Resampling.BICUBIC,
        box=(left, top, left + width, top + height),
    )
    orientation = random.choice(range(1, 9)) if kind != "PNG" else 1
    body = encode(upright, kind, orientation, number)
    name = f"{number:05d}.{SUFFIX[kind]}"
    return Picture(name, _sha256(body), None, upright.width, upright.height, orientation), body


# What a camera does to the sensor's picture so that a viewer that honours the tag shows it upright again.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encode(upright: Image.Image, kind: str, orientation: int, number: int) -> bytes:
    """Bytes of a picture with EXIF that must not survive: a turn, a camera and a place."""
    turned = upright.transpose(_TURNS[orientation]) if orientation in _TURNS else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Model] = "eco demo camera"
    exif[ExifTags.Base.ImageDescription] = f"upload {number}"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    out = io.BytesIO()
    match kind:
        case "JPEG":
            turned.save(out, "JPEG", quality=85, exif=exif)
        case "WEBP":
            turned.save(out, "WEBP", quality=80, method=0, exif=exif)
        case "PNG":
            turned.save(out, "PNG", compress_level=1, exif=exif)
    return out.getvalue()


def broken_file(flaw: Flaw, number: int, source: Image.Image) -> tuple[Picture, bytes]:
    """One file that is broken in the given way."""
    sound = encode(ImageOps.contain(source, (480, 480)), "JPEG", 1, number)
    suffix = "jpg"
    match flaw:
        case Flaw.TRUNCATED:
            body = sound[: len(sound) * 2 // 5]
        case Flaw.NOT_A_PICTURE:
            body = f"This is no photograph, whatever its name says. ({number})\n".encode() * 40
        case Flaw.EMPTY:
            body = b""
        case Flaw.BOMB:
            body, suffix = bomb(BOMB_EDGE_PX), "png"
        case Flaw.TOO_LARGE:
            # A sound picture with a tail: viewers would show it, so only the bound on bytes can refuse it.
            body = sound + number.to_bytes(8, "big") * ((TOO_LARGE_BYTES - len(sound)) // 8 + 1)
    name = f"{flaw.value}-{number:03d}.{suffix}"
    return Picture(name, _sha256(body), flaw, 0, 0, 1), body


def bomb(edge_px: int) -> bytes:
    """A valid one-bit PNG of `edge_px` squared black pixels: small on disk, ruinous when it is unpacked."""
    row = b"\0" * (1 + (edge_px + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(edge_px)) + packer.flush()
    header = struct.pack(">IIBBBBB", edge_px, edge_px, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
