"""Foreign files: what is sound comes back, everything else is one line that names the file."""

import json
import os
import time
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from codyra import reading
from codyra.errors import MAX_MESSAGE, UserError, visible
from codyra.reading import (
    parse_json,
    parse_yaml,
    read_bytes,
    read_json,
    read_tensors,
    read_text,
    sha256,
    within,
)


def refused(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert line.isprintable(), line
    return line


# --- where a file lies


def test_within_follows_links_and_stays_inside(tmp_path):
    run, other = tmp_path / "run", tmp_path / "run-2"
    for folder in (run / "tasks", other):
        folder.mkdir(parents=True)
    (run / "inside").symlink_to(run / "tasks")
    (tmp_path / "alias").symlink_to(run)
    assert within(run, "tasks/a.json") == run / "tasks/a.json"
    assert within(run, "inside/a.json") == run / "inside/a.json"
    assert within(tmp_path / "alias", "tasks") == tmp_path / "alias/tasks"

    (run / "out").symlink_to(other)
    (run / "loop").symlink_to(run / "loop")
    for name in ("../run-2/a", "out/a", "/etc/passwd", "tasks/../../run-2"):
        assert "lies outside" in refused(within, run, name)
    for name in ("nul\0", "loop/a"):
        assert "is no name of a file in it" in refused(within, run, name)


@pytest.mark.parametrize("read", [read_bytes, read_text, read_json, read_tensors, sha256])
def test_only_regular_files_are_opened(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("1")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device", "."):
        assert "not a regular file" in refused(read, tmp_path / name)
    for name in ("nowhere", "file/below"):
        assert f"{tmp_path / name} is missing" in refused(read, tmp_path / name)
    for name in ("loop", "x" * 300, "nul\0"):
        assert "is damaged" in refused(read, tmp_path / name)


def test_size_is_known_before_anything_is_read(tmp_path):
    file = tmp_path / "sparse.json"
    with file.open("wb") as stream:
        stream.truncate(10**12)
    for read in (read_bytes, read_text, read_json):
        assert "bytes are more than" in refused(read, file)


def test_text_is_utf8(tmp_path):
    file = tmp_path / "text"
    file.write_bytes("fleurs d'été\r\n".encode())
    assert read_text(file) == "fleurs d'été\r\n"
    file.write_bytes(b"\xff\xfe")
    assert f"{file} is damaged" in refused(read_text, file)


def test_sha256(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert sha256(tmp_path / "empty").startswith("e3b0c44298fc1c14")


# --- JSON

NOT_JSON = {
    "NaN": "NaN is not a number",
    "[-Infinity]": "-Infinity is not a number",
    "1e999": "1e999 is larger than any number",
    '{"a": 1, "a": 2}': "the key 'a' stands twice",
    '["\\ud800"]': "surrogates not allowed",
    '{"\\udfff": 1}': "surrogates not allowed",
    "1" * 10_000: "not JSON",
    "[" * 100_000: "not JSON",
    '{"a":' * 100_000: "not JSON",
    "": "not JSON",
    "{'a': 1}": "not JSON",
}


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: text[:12])
def test_what_is_not_json(text, tmp_path):
    assert NOT_JSON[text] in refused(parse_json, text, tmp_path / "a.json")


def test_json_comes_back(tmp_path):
    content = {"a": [1, 2.5, None, True, "\u00e9\U0001f600\n"], "b": {"": 10**30}}
    for ascii_only in (True, False):
        (tmp_path / "a.json").write_text(json.dumps(content, ensure_ascii=ascii_only))
        assert read_json(tmp_path / "a.json") == content


# --- YAML


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join(f'*a{n - 1}' for _ in range(9))}]" for n in range(1, levels)]
    return "\n".join(lines)


NOT_YAML = {
    bomb(12): "aliases written out",
    "a: &a [*a]": "contains itself",
    f"a: &a {'x' * 9000}\nb: [{'*a, ' * 1000}]": "aliases written out",
    "[" * 5000: "more than 100 deep",
    "[" * 200 + "]" * 200: "more than 100 deep",
    "a: 1\nb: 2\na: 3": "line 3: the key 'a' stands twice",
    f"a: {'1:' * 50_000}1": "a number of 100001 characters",
    f"a: 0x{'f' * 5000}": "a number of 5002 characters",
    f"a: {'9' * 5000}": "a number of 5000 characters",
    'a: "\\ud800"': "surrogates not allowed",
    "a: !!python/object/apply:os.system [x]": "could not determine a constructor",
    "a: !!timestamp x": "not what its tag",
    "? [a, {}]\n: 1": "unhashable",
    "a: !!int x": "invalid literal",
    "a: !!float ''": "",
    "a: 2024-99-99": "month must be",
    "a: [": "line 1",
    "\x00": "",
    "a: b: c": "line 1",
    "x" * 1_000_001: "1000001 characters are more than",
}


@pytest.mark.parametrize("text", NOT_YAML, ids=lambda text: text[:16].encode("unicode_escape").decode())
def test_what_is_not_yaml(text):
    started = time.perf_counter()
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert NOT_YAML[text] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert time.perf_counter() - started < 5


def test_yaml_comes_back():
    text = "a: &x {b: 1}\nc: {<<: *x, d: [1.5e-4, null, yes, 'text']}\ne: 1e999"
    assert parse_yaml(text) == {
        "a": {"b": 1},
        "c": {"b": 1, "d": [1.5e-4, None, True, "text"]},
        "e": "1e999",
    }
    assert parse_yaml("") is None
    assert parse_yaml("a: -.inf") == {"a": float("-inf")}


# --- safetensors


def header(text: str, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + data


def entry(dtype: str = "F32", shape: str = "[1]", offsets: str = "[0, 4]") -> str:
    return f'{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}'


NOT_TENSORS = {
    "empty": b"",
    "pickle": b"\x80\x04K\x01.",
    "no header": (2**63).to_bytes(8, "little"),
    "header longer than the file": (10**6).to_bytes(8, "little") + b"{}",
    "header is no object": header("[1]"),
    "header is cut off": header('{"a": {"dtype": "F32"'),
    "header is no text": (2).to_bytes(8, "little") + b"\xff\xff",
    "deep header": header("[" * 100_000),
    "no dtype of that name": header(entry("PICKLE"), bytes(4)),
    "negative shape": header(entry(shape="[-1]"), bytes(4)),
    "huge shape": header(entry(shape=f"[{2**62}, {2**62}]"), bytes(4)),
    "shape that lies": header(entry(shape="[2]"), bytes(4)),
    "offsets out of the file": header(entry(offsets="[4, 8]"), bytes(4)),
    "offsets backwards": header(entry(offsets="[4, 0]"), bytes(4)),
    "bytes behind the data": header(entry(), bytes(5)),
    "one name twice": header(entry()[:-1] + ", " + entry(offsets="[4, 8]")[1:], bytes(8)),
    "overlapping": header(
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},'
        ' "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}',
        bytes(6),
    ),
}


@pytest.mark.parametrize("case", NOT_TENSORS)
def test_what_is_not_safetensors(case, tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(NOT_TENSORS[case])
    assert f"{file} is damaged: not safetensors" in refused(read_tensors, file)


def test_a_renamed_zip_or_pickle_is_no_safetensors(tmp_path):
    file = tmp_path / "a.safetensors"
    torch.save({"a": torch.ones(2)}, file)
    assert zipfile.is_zipfile(file)
    assert "not safetensors" in refused(read_tensors, file)


def test_tensors_are_copies(tmp_path):
    file = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(3, 2), "b": torch.zeros(0, 4, dtype=torch.float16)}
    save_file(tensors, file)
    loaded = read_tensors(file)
    file.write_bytes(bytes(file.stat().st_size))
    torch.testing.assert_close(loaded, tensors, atol=0, rtol=0)


# --- the line


@given(st.text())
def test_every_message_is_one_printable_line(text):
    line = str(UserError(f"a.json: {text}"))
    assert line.isprintable()
    line.encode()


def test_a_long_message_keeps_both_ends():
    line = str(UserError("what is wrong " + "x" * 100_000 + " how to mend it"))
    assert len(line) < MAX_MESSAGE + 10
    assert line.startswith("what is wrong")
    assert line.endswith("how to mend it")


def test_names_in_any_script_are_shown_as_they_are():
    for text in ("fleurs d'été", "画像\u3000一", "a\u00a0b", "tab"):
        assert visible(text) == text
    assert visible("a\nb\x1b[31m\u202e\ud800") == "a\\nb\\x1b[31m\\u202e\\ud800"


def test_an_error_shows_a_space_that_is_no_plain_blank():
    """Pasted from a web page, a key may end in one, and then looks like the key that it is not."""
    assert str(UserError("model\u00a0: there is no such key")) == r"model\xa0: there is no such key"


def test_damaged_quotes_what_the_file_says_in_one_line(tmp_path):
    assert refused(reading.damaged, tmp_path / "a", "two\nlines").count("two lines") == 1
