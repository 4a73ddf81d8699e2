"""Reading files that somebody else may have written: bounded, inside their folder, never executed.

Everything a run folder holds goes through here. Whatever is wrong with a file ends in one line that names it.
"""

import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from codyra.errors import UserError

MAX_TEXT_BYTES = 256_000_000
"""Largest text file that is read; the log of a million training steps stays below."""
MAX_YAML_NODES = 200_000
MAX_DEPTH = 100
_HASH_CHUNK = 1 << 20
_YAML_FAULTS = (
    yaml.YAMLError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
)
"""What PyYAML raises on hostile text; its constructors let through whatever Python's own raise."""


def damaged(file: Path, reason: str) -> NoReturn:
    """Raise the one line about a file that is not what it should be."""
    # The reason may quote the file.
    raise UserError(
        f"{file} is damaged: {' '.join(reason.split())[:400]}; restore it or run the experiment again"
    )


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


def read_bytes(file: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Content of a regular file of bounded size.

    Raises:
        UserError: there is no such file, it is no regular file, or it is too large.
    """
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            damaged(file, "not a regular file")
        if about.st_size > max_bytes:
            damaged(file, f"{about.st_size} bytes are more than the {max_bytes} it may have")
        return file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} is missing; restore it or run the experiment again") from None
    except OSError as error:
        damaged(file, error.strerror or str(error))


def read_text(file: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Content of a UTF-8 file; raises as `read_bytes` does."""
    try:
        return read_bytes(file, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        damaged(file, str(error))


def parse_json(text: str, file: Path) -> Any:
    """JSON in the strict sense, without NaN and infinity; `file` is for the message.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        damaged(file, f"not JSON ({error})")


def read_json(file: Path) -> Any:
    """Content of a JSON file.

    Raises:
        UserError: it is missing, too large, or not JSON.
    """
    return parse_json(read_text(file), file)


def parse_yaml(text: str) -> Any:
    """YAML of plain values.

    Raises:
        ValueError: not YAML, a key that stands twice, or more nodes, deeper nesting or more expansion by
            aliases than any config has; one line with its place.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _expanded_nodes(node, {}, 0)
        return yaml.safe_load(text)
    except _YAML_FAULTS as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{place}{problem}") from None


def read_tensors(file: Path) -> dict[str, Any]:
    """Tensors of a safetensors file, each a copy of its own in memory.

    Raises:
        UserError: it is missing or not a safetensors file.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    if not file.is_file():
        raise UserError(f"{file} is missing; restore it or run the experiment again")
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
    """SHA-256 (hex) of a file's bytes.

    Raises:
        UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            for chunk in _chunks(stream):
                digest.update(chunk)
    except OSError as error:
        damaged(file, error.strerror or str(error))
    return digest.hexdigest()


def _chunks(stream: Any) -> Iterator[bytes]:
    while chunk := stream.read(_HASH_CHUNK):
        yield chunk


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _expanded_nodes(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """Nodes below `node` with every alias written out; also refuses what nobody means."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise ValueError("an alias contains itself")
        return sizes[id(node)]
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    sizes[id(node)] = 0
    total = 1
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys and key.value != "<<":
                    raise ValueError(f"line {key.start_mark.line + 1}: the key {key.value!r} stands twice")
                keys.add(key.value)
            total += _expanded_nodes(key, sizes, depth + 1) + _expanded_nodes(value, sizes, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_expanded_nodes(item, sizes, depth + 1) for item in node.value)
    if total > MAX_YAML_NODES:
        raise ValueError(f"more than {MAX_YAML_NODES} values, aliases written out")
    sizes[id(node)] = total
    return total
