"""Images: everything becomes 8-bit RGB, whatever cannot is named, and nothing is decoded early."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codyra.errors import UserError
from codyra.streams import check_images
from codyra.streams.images import ImageFile


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_usual_mode_opens_as_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.tiff" if mode == "CMYK" else "a.png"
    source = Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode) if mode != "I;16" else grey_16(65535)
    source.save(tmp_path / name)
    image = ImageFile(tmp_path, name).open()
    assert (image.mode, image.size) == ("RGB", (5, 3))
    assert image.getpixel((4, 2)) == (255, 255, 255)


def grey_16(value: int) -> Image.Image:
    return Image.fromarray(np.full((3, 5), value, dtype=np.uint16))


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    grey_16(0x4080).save(tmp_path / "a.png")
    assert ImageFile(tmp_path, "a.png").open().getpixel((0, 0)) == (0x40, 0x40, 0x40)


def test_alpha_is_dropped_without_a_warning(tmp_path: Path) -> None:
    palette = Image.new("P", (5, 3), 1)
    palette.putpalette([0, 0, 0, 200, 10, 20])
    palette.save(tmp_path / "palette.png", transparency=bytes([255, 7]))
    Image.new("RGBA", (5, 3), (200, 10, 20, 0)).save(tmp_path / "alpha.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("palette.png", "alpha.png"):
            assert ImageFile(tmp_path, name).open().getpixel((0, 0)) == (200, 10, 20)


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg", exif=exif)
    assert ImageFile(tmp_path, "a.jpg").open().size == (5, 3)


def damaged(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG" if kind == "bomb" else "JPEG")
    content = stream.getvalue()
    if kind == "bomb":  # the header claims 400 million pixels
        import struct
        import zlib

        header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + content[24:29]
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    return {"empty": b"", "text": b"not an image", "truncated": content[: len(content) // 2]}[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "no known format"),
        ("text", "no known format"),
        ("truncated", "truncated"),
        ("bomb", "exceeds limit"),
    ],
)
def test_a_bad_training_image_is_named_by_the_check(
    pets: Path, build: Callable[..., list], kind: str, reason: str
) -> None:
    (pets / "train/dog/1.png").write_bytes(damaged(kind))
    tasks = build({"name": "pets", "data": "imagefolder:pets"})  # nothing is decoded here
    for _ in range(2):  # what was found once is found again
        with pytest.raises(UserError, match=reason) as caught:
            check_images([task.train for task in tasks])
        assert str(pets / "train/dog/1.png") in str(caught.value)
        assert "\n" not in str(caught.value)


def test_32_bit_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 5), dtype=np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=r"a\.tiff: its pixels have 32 bits"):
        ImageFile(tmp_path, "a.tiff").open()


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: No such file"):
        ImageFile(tmp_path, "gone.png").open()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the image files that are decoded."""
    names: list[str] = []
    decode = ImageFile.open
    monkeypatch.setattr(ImageFile, "open", lambda self: (names.append(self.name), decode(self))[1])
    return names


def test_every_training_image_is_decoded_once_and_counted(
    pets: Path, build: Callable[..., list], opened: list[str]
) -> None:
    task = {"data": "imagefolder:pets", "shots": 2, "classes": ["cat", "dog"]}
    tasks = build(task | {"name": "one"}, task | {"name": "two", "classes": ["dog"]}, seed=8)
    assert opened == []
    counted: list[int] = []
    check_images([task.train for task in tasks], counted.append)
    assert sorted(opened) == sorted({image.name for task in tasks for image in task.train.inputs})
    assert sum(counted) == sum(len(task.train.inputs) for task in tasks)


def test_training_images_that_were_found_sound_are_not_checked_again(
    pets: Path,
    build: Callable[..., list],
    opened: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CODYRA_CACHE_DIR", str(tmp_path / "cache"))

    def decoded(**options: Any) -> int:
        opened.clear()
        counted: list[int] = []
        tasks = build({"name": "pets", "data": "imagefolder:pets"} | options)
        check_images([task.train for task in tasks], counted.append)
        assert sum(counted) == len(tasks[0].train.inputs)
        return len(opened)

    assert (decoded(), decoded(), decoded(prompt="{}", name="other")) == (15, 0, 0)
    assert (decoded(classes=["cat", "dog"]), decoded(classes=["cat", "dog"])) == (9, 0)
    Image.new("RGB", (9, 9)).save(pets / "train/cat/0.png")
    assert (decoded(), decoded()) == (15, 0)
    monkeypatch.setenv("CODYRA_CACHE_GIB", "0")
    assert (decoded(), decoded()) == (15, 15)


def test_digest_sees_both_ends_and_the_length(tmp_path: Path) -> None:
    def digest(content: bytes) -> str:
        (tmp_path / "a.png").write_bytes(content)
        return ImageFile(tmp_path, "a.png").digest()

    for size in (0, 10, 20_000, 40_000):
        whole = bytes(size)
        variants = [whole, whole + b"\0"]
        if size:
            variants += [b"x" + whole[1:], whole[:-1] + b"x"]
        if 0 < size <= 32 * 1024:
            middle = size // 2
            variants.append(whole[:middle] + b"x" + whole[middle + 1 :])
        assert len({digest(variant) for variant in variants}) == len(variants)
