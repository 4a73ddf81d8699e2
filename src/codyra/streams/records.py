"""What a source hands over: its splits in file order, before classes are selected and shots are drawn."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from codyra.errors import UserError
from codyra.streams.images import ImageInput

Modality = Literal["image", "text"]
Role = Literal["text", "image", "label", "prompt", "answer", "messages"]
"""What a column of a record can hold."""


@dataclass(frozen=True)
class Table:
    """One split as rows of named columns, whatever it is kept in.

    Attributes:
        place: for messages.
        names: its columns, or the fields of its first record.
        rows: of each record the values of some columns, then those of optional ones, None where it has none.
            Raises UserError for a column that is not there and for damage.
        class_names: the names that a column declares for the integers it holds; () where it declares none.
    """

    place: str
    names: Sequence[str]
    rows: Callable[[Sequence[str], Sequence[str]], Iterator[Sequence[object]]]
    class_names: Callable[[str], tuple[str, ...]] = lambda column: ()


@dataclass(frozen=True)
class Records:
    """One split: inputs and the class name of each, in file order; `place` is for messages."""

    inputs: Sequence[str | ImageInput]
    labels: Sequence[str]
    place: str

    @cached_property
    def digests(self) -> list[str]:
        """What stands for each input in a fingerprint: a text itself, the `digest()` of an image.

        Raises:
            UserError: an image file cannot be read.
        """
        return [content if isinstance(content, str) else content.digest() for content in self.inputs]


@dataclass(frozen=True)
class Source:
    """The two splits that a task needs, and every class of the source in label order.

    Attributes:
        marks: in which way this is not the data set that a benchmark means.
        empty_classes: a class may be without an example in a split.
    """

    modality: Modality
    class_names: tuple[str, ...]
    train: Records
    test: Records
    marks: tuple[str, ...] = ()
    empty_classes: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over both splits in order: the class of each example with its text, or with the
        `key` and `digest()` of its image. All classes count, because positions in shots.json count them too.

        Raises:
            UserError: an image file cannot be read.
        """
        whole = hashlib.sha256()
        for records in (self.train, self.test):
            whole.update(f"{len(records.inputs)}\n".encode())
            for content, digest, label in zip(records.inputs, records.digests, records.labels, strict=True):
                described = content if isinstance(content, str) else [content.key, digest]
                whole.update(json.dumps([label, described]).encode() + b"\n")
        return whole.hexdigest()


def renamed(source: Source, rename: Callable[[str], str]) -> Source:
    """The same source with other class names.

    Raises:
        UserError: two classes would have one name.
    """
    new = {name: rename(name) for name in source.class_names}
    if len(set(new.values())) < len(new):
        double = next(name for name, times in Counter(new.values()).items() if times > 1)
        raise UserError(f"{source.train.place}: two classes are both {double!r}; rename one in the data")

    def relabelled(records: Records) -> Records:
        return replace(records, labels=[new.get(label, label) for label in records.labels])

    return replace(
        source,
        class_names=tuple(new.values()),
        train=relabelled(source.train),
        test=relabelled(source.test),
    )


def without(source: Source, left_out: Collection[str]) -> Source:
    """The same source without the examples of these classes."""

    def rest(records: Records) -> Records:
        kept = [place for place, label in enumerate(records.labels) if label not in left_out]
        return replace(
            records,
            inputs=[records.inputs[place] for place in kept],
            labels=[records.labels[place] for place in kept],
        )

    names = tuple(name for name in source.class_names if name not in left_out)
    return replace(source, class_names=names, train=rest(source.train), test=rest(source.test))


def text_source(train: Table, test: Table, text: str, label: str) -> Source:
    """Texts and labels; classes are the distinct labels of the train split, or those its table declares.

    Raises:
        UserError: a column is missing, or a text or a label is missing, empty or of another type.
    """
    of_train, of_test = (_text_records(table, text, label) for table in (train, test))
    names = train.class_names(label) or label_order(of_train.labels)
    return Source("text", names, of_train, of_test)


def _text_records(table: Table, text: str, label: str) -> Records:
    rows = table.rows((text, label), ())  # tells of a missing column before its class names are asked for
    names = table.class_names(label)
    texts, labels = [], []
    for number, (content, value) in enumerate(rows, start=1):
        texts.append(checked_text(content, f"{table.place}, record {number}", "text"))
        labels.append(checked_label(named_label(value, names) if names else value, table.place, number))
    return Records(texts, labels, table.place)


def checked_text(value: object, at: str, what: str) -> str:
    """A text that is there, not only of white space, and whole; `at` and `what` are for the message.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, str) or not value.strip() or not _is_whole(value):
        raise UserError(f"{at}: the {what} is {_shown(value)}; fill it in or drop the record")
    return value


def checked_label(label: object, place: str, number: int, what: str = "label") -> str:
    """A label as a class name; integers and booleans are written out.

    Raises:
        UserError: it is missing, empty or of another type.
    """
    if not isinstance(label, str | int) or label == "" or not _is_whole(str(label)):
        raise UserError(f"{place}, record {number}: the {what} is {_shown(label)}; use a name or an integer")
    return str(label)


def named_label(index: object, names: Sequence[str]) -> str | None:
    """Class name of an integer of a class-label column; None for no class (-1 marks an unlabelled row)."""
    return names[index] if isinstance(index, int) and 0 <= index < len(names) else None


def label_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels, sorted; by value when every one of them is a decimal number."""
    distinct = sorted(set(labels))
    if all(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", label) for label in distinct):
        distinct.sort(key=float)
    return tuple(distinct)


def _is_whole(text: str) -> bool:
    """False for half of a surrogate pair, which no tokenizer and no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str):
        return "not valid Unicode" if value.strip() else "empty"
    return f"of type {type(value).__name__}"
