"""The file formats of the original data sets: idx, MATLAB, CIFAR's binary form, lists of words.

Nothing is unpickled; sizes are checked against what a header promises before anything is allocated.
"""

import gzip
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codyra.errors import UserError
from codyra.reading import MAX_TEXT_BYTES, check_regular, read_bytes

CIFAR_PIXELS = 3 * 32 * 32
_IDX_UINT8 = 8
_MAX_IDX_BYTES = 1 << 26
"""MNIST's largest file has 47 MB."""


def read_lines(file: Path) -> list[str]:
    """Lines of a text file without the empty ones, stripped.

    Raises:
        UserError: it is missing, too large or not UTF-8.
    """
    if check_regular(file) > MAX_TEXT_BYTES:
        raise UserError(f"{file} is larger than {MAX_TEXT_BYTES:,} bytes; this is no annotation file")
    try:
        return [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (byte {error.start}); replace the file") from error


def read_idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """An idx array of bytes, `folder / name` or the same with .gz.

    Raises:
        UserError: neither is there, or the content is not what its header says.
    """
    file = folder / name
    try:
        if file.is_file():
            check_regular(file)
            with file.open("rb") as plain:
                content = plain.read(_MAX_IDX_BYTES)
        elif (file := folder / f"{name}.gz").is_file():
            with gzip.open(file) as packed:
                content = packed.read(_MAX_IDX_BYTES)  # a bomb ends here
        else:
            raise UserError(f"{folder} has neither {name} nor {name}.gz; get MNIST's four idx files")
        header = 4 * (1 + dimensions)
        zeros, kind, rank = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
    except (struct.error, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}); replace it") from error
    if zeros != 0 or kind != _IDX_UINT8 or rank != dimensions:
        raise UserError(f"{file} is no idx file of bytes in {dimensions} dimensions; replace it")
    expected = int(np.prod(shape, dtype=object))
    if len(content) - header != expected:
        raise UserError(
            f"{file} is damaged: {len(content) - header:,} bytes of data, its header promises {expected:,}; replace it"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_cifar(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels uint8 (N, 32, 32, 3) and fine labels (N,) of CIFAR-100's binary form, mapped, not read.

    Raises:
        UserError: the file is missing or is no whole number of records.
    """
    size, record = check_regular(file), 2 + CIFAR_PIXELS
    if size == 0 or size % record:
        raise UserError(
            f"{file} is damaged: {size:,} bytes are no whole number of {record}-byte records; replace it"
        )
    rows = np.memmap(file, np.uint8, mode="r").reshape(-1, record)
    return rows[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 1]


def read_matlab(file: Path, *names: str) -> list[NDArray[Any]]:
    """Variables of a MATLAB file, squeezed: vectors are one-dimensional, structs are structured arrays.

    Raises:
        UserError: the file or a variable is missing, or the file is damaged.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    packed = io.BytesIO(read_bytes(file))
    try:
        content = loadmat(packed, squeeze_me=True, variable_names=names)
    except (
        MatReadError,
        NotImplementedError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        OSError,
        OverflowError,
        MemoryError,
        UnboundLocalError,
        struct.error,
        zlib.error,
    ) as error:
        raise UserError(f"{file} is no MATLAB file of version 5 ({str(error)[:200]}); replace it") from error
    for name in names:
        if name not in content:
            raise UserError(f"{file} has no variable '{name}'; replace the file")
    return [np.atleast_1d(content[name]) for name in names]


def whole_numbers(values: NDArray[Any], place: object) -> list[int]:
    """The numbers of a MATLAB vector, which may be stored as floats or one array each.

    Raises:
        UserError: something else is among them.
    """
    try:
        numbers = np.asarray(values.tolist(), np.float64)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if numbers.ndim != 1 or not (np.isfinite(numbers) & (numbers == np.floor(numbers))).all():
        raise UserError(f"{place} are no whole numbers; replace the file")
    return [int(number) for number in numbers.tolist()]
