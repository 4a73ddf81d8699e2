"""Reading files that somebody else may have written: bounded, inside their folder, never executed.

Everything a run folder holds goes through here. Whatever is wrong with a file ends in one line that names it.
"""

import hashlib
import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from codyra.errors import UserError

T = TypeVar("T")

MAX_TEXT_BYTES = 100_000_000
"""Largest text that is read as a whole; the log of half a million training steps stays below."""
MAX_JSON_BYTES = 16_000_000
"""Parsed, a hostile file takes thirty times its size; the prompts of twenty thousand classes take a quarter."""
MAX_YAML_BYTES = 1_000_000
MAX_YAML_SIZE = 2_000_000
"""Characters of a YAML document with every alias written out, and ten for each of its values."""
MAX_YAML_NUMBER = 100
MAX_DEPTH = 100
_HASH_CHUNK = 1 << 20
_YAML_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MISFITS = (KeyError, IndexError, AttributeError, TypeError, OverflowError)
"""What PyYAML's constructors let through for a value that is not what its tag says."""


def damaged(file: Path, reason: str) -> NoReturn:
    """Raise the one line about a file that is not what it should be."""
    # The reason may quote the file.
    raise UserError(f"{file} is damaged: {' '.join(reason.split())[:400]}; restore it or make it anew")


def within(folder: Path, name: str | Path) -> Path:
    """`folder / name`, known to be in the folder once every link is followed.

    Raises:
        UserError: it lies elsewhere.
    """
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
        damaged(folder, f"{str(name)!r} is no name of a file in it ({error})")
    if not inside:
        raise UserError(f"{path} lies outside {folder}; a run folder holds its own files, replace the link")
    return path


def check_regular(file: Path) -> int:
    """Size in bytes of a regular file; a pipe or a device would be read for ever.

    Raises:
        UserError: there is no such file, or it is something else.
    """
    try:
        about = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{file} is missing; restore it or make it anew") from None
    except (OSError, ValueError) as error:
        damaged(file, _why(error))
    if not stat.S_ISREG(about.st_mode):
        damaged(file, "not a regular file")
    return about.st_size


def read_bytes(file: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Content of a regular file of bounded size.

    Raises:
        UserError: there is no such file, it is no regular file, too large, or not readable.
    """
    size = check_regular(file)
    if size > max_bytes:
        damaged(file, f"{size} bytes are more than the {max_bytes} it may have")
    try:
        return file.read_bytes()
    except OSError as error:
        damaged(file, _why(error))


def read_text(file: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Content of a UTF-8 file; raises as `read_bytes` does."""
    try:
        return read_bytes(file, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        damaged(file, str(error))


def parse_json(text: str, file: Path) -> Any:
    """JSON in the strict sense: finite numbers, no key twice, whole characters; `file` is for the message.

    Raises:
        UserError: it is not JSON.
    """
    try:
        content = json.loads(
            text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_distinct
        )
        if "\\u" in text:  # the only way to half of a surrogate pair, which no file can hold
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except (ValueError, RecursionError) as error:
        damaged(file, f"not JSON ({error})")


def read_json(file: Path) -> Any:
    """Content of a JSON file.

    Raises:
        UserError: it is missing, too large, or not JSON.
    """
    return parse_json(read_text(file, MAX_JSON_BYTES), file)


def parse_yaml(text: str) -> Any:
    """YAML of plain values.

    Raises:
        ValueError: not YAML, a key that stands twice, or larger values, deeper nesting or more expansion by
            aliases than any config has; one line with its place.
    """
    try:
        if len(text) > MAX_YAML_BYTES:
            raise ValueError(f"{len(text)} characters are more than the {MAX_YAML_BYTES} a config may have")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded_size(node, {}, 0)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    except _MISFITS:
        raise ValueError("a value is not what its tag (!!...) says") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{place}{problem}") from None


def checked(kind: type[T], content: Any, file: Path) -> T:
    """`content` of `file` as a `kind`, any type that pydantic can validate.

    Raises:
        UserError: it is none; the first fault is named with its place.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100] or "top level"
        damaged(file, f"{where}: {first['msg'].removeprefix('Value error, ')}")


def read_tensors(file: Path) -> dict[str, Any]:
    """Tensors of a safetensors file, each a copy of its own in memory.

    Raises:
        UserError: it is missing or not a safetensors file.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    check_regular(file)
    try:
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(file).items()}
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        OverflowError,
        RuntimeError,
        SafetensorError,
    ) as error:
        damaged(file, f"not safetensors ({error})")


def sha256(file: Path) -> str:
    """SHA-256 (hex) of a regular file's bytes.

    Raises:
        UserError: it cannot be read.
    """
    check_regular(file)
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK):
                digest.update(chunk)
    except OSError as error:
        damaged(file, _why(error))
    return digest.hexdigest()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(number: str) -> float:
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{number[:40]} is larger than any number")
    return value


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"the key {key!r} stands twice")
        content[key] = value
    return content


def _expanded_size(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Size of `node` with every alias written out; also refuses what nobody means."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise ValueError("an alias contains itself")
        return sizes[id(node)]
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    sizes[id(node)] = 0
    size = 10
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys and key.value != "<<":
                    raise ValueError(f"line {key.start_mark.line + 1}: the key {key.value!r} stands twice")
                keys.add(key.value)
            size += _expanded_size(key, sizes, depth + 1) + _expanded_size(value, sizes, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_expanded_size(item, sizes, depth + 1) for item in node.value)
    else:
        if node.tag in _YAML_NUMBERS and len(node.value) > MAX_YAML_NUMBER:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} characters")
        node.value.encode()  # half of a surrogate pair is an error
        size += len(node.value)
    if size > MAX_YAML_SIZE:
        raise ValueError(f"more than {MAX_YAML_SIZE} characters, aliases written out")
    sizes[id(node)] = size
    return size
