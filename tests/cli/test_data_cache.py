"""The cache of test images as a user meets it."""

import os

import pytest
import yaml

from codyra import cache
from codyra.streams.images import ImageFile


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CODYRA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def stream(config, tmp_path):
    config["method"] = {"name": "zero_shot"}
    (tmp_path / "stream.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "stream.yaml"


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    names: list[str] = []
    decode = ImageFile.open
    monkeypatch.setattr(ImageFile, "open", lambda self: (names.append(self.name), decode(self))[1])
    return names


def test_a_second_run_decodes_no_test_image(command, stream, tmp_path, opened):
    for number, decoded in ((1, 36), (2, 0)):
        opened.clear()
        code, _, err = command("run", stream, "--out", tmp_path / str(number))
        assert code == 0, err
        # The report shows a few of them as they are.
        assert len([name for name in opened if "/test/" in name]) == decoded + 6
        assert len([name for name in opened if "/train/" in name]) == 8 * 3 * (number == 1)
    accuracy = [(tmp_path / str(number) / "accuracy.csv").read_bytes() for number in (1, 2)]
    assert accuracy[0] == accuracy[1]


def test_a_dry_run_fills_the_cache_and_the_command_shows_it(command, stream, tmp_path):
    code, out, _ = command("data", "cache")
    assert (code, len(out.splitlines())) == (0, 1)
    assert command("run", stream, "--dry-run")[0] == 0
    code, out, _ = command("data", "cache")
    assert code == 0
    for name in ("warm", "cool", "plain"):
        assert f"{name} " in out
    assert str(tmp_path / "cache/pixels") in out
    os.truncate(cache.entries()[0].path, 100)
    assert "damaged" in command("data", "cache")[1]
    code, out, _ = command("data", "cache", "--clear")
    assert (code, len(out.splitlines())) == (0, 1)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_clearing_removes_nothing_that_is_not_the_caches(command, tmp_path, monkeypatch):
    mine = [
        tmp_path / "cache/pixels/mine.npy",
        tmp_path / "cache/checked/notes.txt",
        tmp_path / "cache/other",
    ]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert command("data", "cache", "--clear")[0] == 0
    assert all(path.read_text() == "mine" for path in mine)


def test_without_a_cache_a_run_says_so_once(command, stream, tmp_path, monkeypatch):
    monkeypatch.setenv("CODYRA_CACHE_GIB", "0")
    code, out, _ = command("run", stream, "--out", tmp_path / "run")
    assert code == 0
    assert out.count("not cached") == 1
    assert not (tmp_path / "cache").exists()


def test_mistakes_are_one_line(command, tmp_path, monkeypatch):
    monkeypatch.setenv("CODYRA_CACHE_GIB", "lots")
    code, _, err = command("data", "cache")
    assert code == 2
    assert "CODYRA_CACHE_GIB is 'lots'" in err
    monkeypatch.delenv("CODYRA_CACHE_GIB")
    (tmp_path / "cache").write_text("a file")
    code, _, err = command("data", "cache")
    assert code == 2
    assert err.count("\n") == 1
