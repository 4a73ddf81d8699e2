"""The cards in docs/methods are those of the declarations, and the documented way to add a method works."""

import re
import shutil
from pathlib import Path

import pytest

from codyra import run
from codyra.methods import declaration, method_names, registry
from codyra.methods.card import card, index, write_cards
from codyra.methods.registry import PIECES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", method_names())
def test_the_card_in_the_documentation_is_that_of_the_declaration(name):
    assert (DOCS / "methods" / f"{name}.md").read_text("utf-8") == card(name), "run: make cards"


def test_there_is_a_card_for_every_method_and_no_other(tmp_path):
    write_cards(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in (DOCS / "methods").iterdir()}
    assert (DOCS / "methods/README.md").read_text("utf-8") == index(), "run: make cards"


def test_the_page_on_methods_names_every_piece_under_its_slot():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", (DOCS / "methods.md").read_text("utf-8"), re.MULTILINE)
    named = {piece for _, pieces in rows for piece in re.findall(r"`(\w+)`", pieces)}
    assert named == set(PIECES)


@pytest.fixture
def with_the_method_of_the_page(monkeypatch, tmp_path):
    """The folder of methods, and in it the file that the page tells to write."""
    for name in method_names():
        shutil.copy(declaration.FOLDER / f"{name}.yaml", tmp_path)
    page = (DOCS / "methods.md").read_text("utf-8")
    (name,) = re.findall(r"`src/codyra/methods/(\w+)\.yaml`", page)
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / f"{name}.yaml").write_text(text)
    caches = (declaration.read_declaration, declaration.method_names, registry.options_class)
    monkeypatch.setattr(declaration, "FOLDER", tmp_path)
    for cached in caches:
        cached.cache_clear()
    yield name
    for cached in caches:
        cached.cache_clear()


def test_a_new_combination_takes_one_file(with_the_method_of_the_page, config, tmp_path):
    name = with_the_method_of_the_page
    finished = run(
        config, tmp_path / "run", overrides=[f"method.name={name}", "method.r=4", "method.energy=0.6"]
    )
    assert 0 < finished.metrics["mean_rank"][0] < 4
    assert f"`method: {{name: {name}}}`" in card(name)
