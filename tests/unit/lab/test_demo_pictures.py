"""The uploads of the demo: repeatable, turned as their EXIF says, broken as their flaw says."""

import io
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageOps

from eco_lab.demo import pictures
from eco_lab.demo.pictures import Flaw, album, broken_file, encode, photograph


@pytest.fixture(scope="module")
def source() -> Image.Image:
    """A picture whose four corners tell each turn apart."""
    plain = Image.new("RGB", (60, 40), (200, 200, 200))
    plain.paste((255, 0, 0), (0, 0, 20, 15))
    plain.paste((0, 0, 255), (40, 25, 60, 40))
    return plain


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_viewer_that_honours_exif_shows_the_upright_picture(source: Image.Image, kind: str, orientation: int) -> None:
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(encode(source, kind, orientation, 1))))
    assert shown is not None
    assert shown.size == source.size
    red, blue = shown.convert("RGB").getpixel((5, 5)), shown.convert("RGB").getpixel((55, 35))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] > red[2] + 100
    assert blue[2] > blue[0] + 100


def test_the_same_seed_makes_the_same_bytes(source: Image.Image) -> None:
    first, second = (photograph([source], 7, Random("1/7"))[1] for _ in range(2))
    assert first == second
    assert photograph([source], 7, Random("2/7"))[1] != first


def test_no_two_sound_pictures_of_a_run_are_the_same(tmp_path: Path) -> None:
    """Objects are keyed by content: equal uploads would share theirs and hide a lost one."""
    made = album(tmp_path, good=12, broken=0)
    assert len({picture.sha256 for picture in made.pictures}) == 12


def test_an_album_comes_back_from_the_cache_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = album(tmp_path, good=3, broken=2)
    monkeypatch.setattr(pictures, "_make", lambda *_, **__: pytest.fail("made again"))
    again = album(tmp_path, good=3, broken=2)
    assert again == first
    assert [again.body(picture) for picture in again.pictures] == [first.body(picture) for picture in first.pictures]


@pytest.mark.parametrize("flaw", list(Flaw))
def test_a_broken_file_is_broken_in_the_way_it_says(
    source: Image.Image, flaw: Flaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "BOMB_EDGE_PX", 20_000)
    picture, body = broken_file(flaw, 0, source)
    assert picture.flaw is flaw
    match flaw:
        case Flaw.EMPTY:
            assert not body
        case Flaw.TOO_LARGE:
            assert len(body) >= pictures.TOO_LARGE_BYTES
        case Flaw.BOMB:
            assert len(body) < 200_000
            with pytest.raises(Image.DecompressionBombError):
                Image.open(io.BytesIO(body))
        case Flaw.TRUNCATED:
            with pytest.raises(OSError, match="truncated"):
                Image.open(io.BytesIO(body)).load()
        case Flaw.NOT_A_PICTURE:
            with pytest.raises(OSError, match="cannot identify"):
                Image.open(io.BytesIO(body))


def test_missing_photographs_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(pictures.PicturesMissingError, match=r"scikit-image.*make setup"):
        pictures.photographs()
