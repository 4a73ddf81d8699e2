"""The page as a whole: complete, well formed, escaped, self-contained, the same twice, of bounded size."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from codyra.engine.folder_reader import RunView, read_run
from codyra.report import render
from report.benchmarks import XTAIL, xtail

VOID = {"meta", "img", "wbr"}
SECTIONS = ("summary", "tasks", "matrix", "curves", "ranks", "size", "training")
HOSTILE = "<script>alert(1)</script>\"'&</style>"
NAME = "<script>alert(1)<script>\"'&<style>"  # no slash: it names a folder


class Page(HTMLParser):
    """Balanced elements, in order, each with its attributes and the text directly inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), f"<{tag}> says an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture
def all_kinds(new_run: Callable[..., Path]) -> list[RunView]:
    """Every way to lack something: no ranks, dense updates, unfinished, another stream, one task."""
    return [
        read_run(new_run("codyra")),
        read_run(new_run("full", method="full")),
        read_run(new_run("zero_shot", method="zero_shot")),
        read_run(new_run("stopped", method="lora", learned=2)),
        read_run(new_run("not-begun", method="lora", learned=0)),
        read_run(new_run("text", tasks=("banking77",), text=True)),
    ]


def test_every_section_is_there_and_reachable(two_runs: Sequence[RunView]) -> None:
    page = Page(render(two_runs))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert set(ids) == {*(f"s1-{name}" for name in SECTIONS), "what-ran"}
    assert len(set(ids)) == len(ids)
    assert {attributes["href"] for attributes in page.named("a")} == {f"#{name}" for name in ids}
    for words in (
        "5.23.0",
        "5f1d8c2a",
        "870 MiB",
        "Survival AUC",
        "a drawing of a {}, fruit.",
        "label_space: all",
    ):
        assert words in page.words


def test_missing_pieces_are_said_in_words(all_kinds: Sequence[RunView]) -> None:
    words = Page(render(all_kinds)).words
    for sentence in (
        "2 different streams",
        "Unfinished: 2 of 5 tasks learnt.",
        "Unfinished: 0 of 5 tasks learnt.",
        "Its updates (dense) have a size but no ranks.",
        "This method changes nothing",
        "transfer and forgetting need a second one; they are not 0",
        "No task is finished yet.",
    ):
        assert sentence in words


def test_a_benchmark_stands_beside_published_figures(new_run: Callable[..., Path]) -> None:
    small = {"steps": 2, "num_layers": 1, "images_per_task": 0}
    marked = xtail(marks=[HOSTILE])
    runs = [
        read_run(new_run("marked", tasks=XTAIL, benchmark=marked, **small)),
        read_run(new_run("part", tasks=XTAIL[:2], benchmark=xtail(), **small)),
        read_run(new_run("own", **small)),
    ]
    page = Page(render(runs))
    assert HOSTILE not in render(runs)
    assert f"Not the benchmark: {HOSTILE}" in page.words
    assert "CLIP zero-shot" in page.words
    assert "No published rows: this stream has 2 of the 10 data sets" in page.words
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert [name for name in ids if name and name.endswith("-beside")] == ["s1-beside", "s2-beside"]
    assert {attributes["href"] for attributes in page.named("a")} == {f"#{name}" for name in ids}


def test_page_is_well_formed(two_runs: Sequence[RunView], all_kinds: Sequence[RunView]) -> None:
    for runs in (two_runs, two_runs[:1], all_kinds):
        text = render(runs)
        assert text.startswith("<!DOCTYPE html>\n<html")
        Page(text)


def test_every_picture_and_chart_has_a_text_alternative(all_kinds: Sequence[RunView]) -> None:
    page = Page(render(all_kinds))
    pictures, charts = page.named("img"), page.named("svg")
    assert pictures
    assert charts
    assert all(attributes["alt"] for attributes in pictures)
    assert all(attributes["aria-label"] and attributes["role"] == "img" for attributes in charts)
    assert any(
        "just learnt 80.5, at the end 79.0" in (attributes["aria-label"] or "") for attributes in charts
    )
    assert all(
        attributes["aria-label"] for attributes in page.named("div") if attributes.get("role") == "region"
    )


def test_hostile_names_stay_text(new_run: Callable[..., Path]) -> None:
    run = read_run(
        new_run("run", tasks=(NAME, "b" * 64), learned=2, config={"stream": {"label_space": HOSTILE}})
    )
    manifest = replace(
        run.manifest,
        machine=HOSTILE,
        versions={HOSTILE: HOSTILE},
        base=replace(run.manifest.base, name=HOSTILE),
        method=replace(run.manifest.method, name=HOSTILE, stores=HOSTILE),
    )
    samples = tuple(
        replace(entry, prompt=HOSTILE, examples=tuple(replace(one, label=HOSTILE) for one in entry.examples))
        for entry in run.samples
    )
    text = render([replace(run, manifest=manifest, samples=samples)], title=HOSTILE)
    page = Page(text)
    assert page.named("script") == []
    assert len(page.named("style")) == 1
    assert HOSTILE in "".join(page.text)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_nothing_is_loaded(two_runs: Sequence[RunView]) -> None:
    text = render(two_runs)
    page = Page(text)
    assert page.named("link", "script", "iframe", "object", "embed", "base", "form") == []
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "style"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:image/png;base64,", "#"))
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in next(a["content"] or "" for a in page.named("meta") if "http-equiv" in a)


def test_same_runs_give_the_same_bytes(new_run: Callable[..., Path]) -> None:
    paths = [new_run("codyra"), new_run("lora", method="lora")]
    first, second = (render([read_run(path) for path in paths]) for _ in range(2))
    assert first == second
    assert str(paths[0].parent) not in first


def test_pages_stay_small(new_run: Callable[..., Path]) -> None:
    tasks = tuple(f"task{number}" for number in range(10))
    runs = [
        read_run(new_run(method, method=method, tasks=tasks, num_layers=12, steps=500))
        for method in ("codyra", "lora")
    ]
    assert len(render(runs).encode()) < 600_000


def test_a_huge_picture_is_left_out(two_runs: Sequence[RunView]) -> None:
    run = two_runs[0]
    entry = run.samples[0]
    assert entry.examples[0].image is not None
    huge = replace(entry.examples[0], image=entry.examples[0].image + bytes(200_000))
    text = render([replace(run, samples=(replace(entry, examples=(huge,)),))])
    assert "(picture too large)" in text
    assert len(text) < 300_000


def test_no_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        render([])


# --- colours ---


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_can_be_told_from_what_they_stand_on(theme: int) -> None:
    """WCAG 2: 4.5 for text, 3 for lines and markers."""
    style = resources.files("codyra.report").joinpath("style.css").read_text("utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    text = [(name, "page") for name in ("ink", "soft", "link", "ok-ink")] + [("warn-ink", "warn-page")]
    text += [("ink" if level < 6 else "strong-ink", f"h{level}") for level in range(11)]
    text += [("ink", f"g{level}") for level in range(11)]
    text += [("ink", f"{way}{level}") for way in ("up", "down") for level in range(1, 6)]
    for ink, ground in text:
        assert _contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
    for index in range(8):
        assert _contrast(colour[f"s{index}"], colour["page"]) >= 3
        assert _contrast(colour[f"s{index}"], colour["raised"]) >= 3
