"""Texts and images beside the tasks: what is read, in which order, and what is refused."""

import os

import pytest
from PIL import Image

from codyra.errors import UserError
from codyra.streams import read_reference, reference


@pytest.fixture
def place(tmp_path):
    for name in ("b/2.png", "b/1.PNG", "a.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (len(name), 0, 0)).save(tmp_path / "images" / name, "png")
    (tmp_path / "captions.txt").write_bytes("\ufeffa cat\r\n\n  a d\u00f3g \u2028 \n".encode())
    return tmp_path


def read(place, images="images", texts="captions.txt", data_dir=None):
    return read_reference(images, texts, data_dir, place)


def test_lines_are_texts_and_all_images_below_the_folder_are_images(place):
    data = read(place)
    assert data.texts.inputs == ["a cat", "a d\u00f3g"]
    assert [image.key for image in data.images.inputs] == ["a.jpg", "b/1.PNG", "b/2.png"]
    assert (len(data.texts), len(data.images)) == (2, 3)


def test_places_are_those_of_data(place, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for data in (
        read_reference("${data_dir}/images", "${data_dir}/captions.txt", place, elsewhere),
        read_reference(str(place / "images"), str(place / "captions.txt"), None, elsewhere),
    ):
        assert len(data.images) == 3
    monkeypatch.setenv("HOME", str(place))
    assert len(read_reference("~/images", "~/captions.txt", None, elsewhere).texts) == 2


def test_the_fingerprint_is_that_of_the_content(place):
    first = read(place)
    again = read(place, "./images")
    assert first.images.fingerprint == again.images.fingerprint
    assert first.texts.fingerprint != first.images.fingerprint
    Image.new("RGB", (4, 4), (99, 0, 0)).save(place / "images/a.jpg", "png")
    (place / "captions.txt").write_text("a cat\na dog")
    other = read(place)
    assert other.images.fingerprint != first.images.fingerprint
    assert other.texts.fingerprint != first.texts.fingerprint


def link_out(place):
    (place / "images/out.png").symlink_to(place / "secret.png")


def fifo(place):
    os.mkfifo(place / "images/pipe.png")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, {"images": "nowhere"}, r"^method\.reference_images: no folder .*nowhere; give one of images$"),
        (None, {"images": "captions.txt"}, r"method\.reference_images: no folder"),
        (
            None,
            {"texts": "nowhere"},
            r"^method\.reference_texts: no file .*; give a UTF-8 file with one caption",
        ),
        (None, {"texts": "images"}, r"method\.reference_texts: no file"),
        (None, {"texts": "${data_dir}/x"}, r"method\.reference_texts: .* --set data_dir="),
        (None, {"images": "${home}/x"}, r"method\.reference_images: .* unknown variable \$\{home\}"),
        (lambda place: (place / "captions.txt").write_text("one\n \n"), {}, "has 1 texts; give 2 to 100000"),
        (
            lambda place: (place / "captions.txt").write_bytes(b"d\xe9j\xe0\nvu"),
            {},
            "captions.txt is damaged",
        ),
        (lambda place: os.remove(place / "images/a.jpg"), {"images": "images/c"}, "no folder"),
        (
            lambda place: (place / "images/c").mkdir(),
            {"images": "images/c"},
            "has 0 images; give 2 to 100000",
        ),
        (link_out, {}, "out.png links to"),
        (fifo, {}, "pipe.png is no file"),
    ],
)
def test_what_cannot_be_read_is_one_line(place, spoil, options, message):
    if spoil is not None:
        spoil(place)
    with pytest.raises(UserError, match=message) as raised:
        read(place, **options)
    assert "\n" not in str(raised.value)


def test_neither_texts_nor_images_are_without_bound(place, monkeypatch):
    monkeypatch.setattr(reference, "MAX_ENTRIES", 2)
    with pytest.raises(UserError, match="has more than 2 images; give 2 to 2, a sample of many will do"):
        read(place)
