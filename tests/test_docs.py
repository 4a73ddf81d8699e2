"""The documentation names what exists: every config key with its default, every metric, every file it points to."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from codyra import metrics, text_metrics
from codyra.engine.config import RunConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def sections():
    for key, field in RunConfig.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel) and key != "method":
            yield from ((f"{key}.{name}", inner) for name, inner in nested.model_fields.items())
        elif key != "method":
            yield key, field


def test_every_config_key_is_documented():
    page = (ROOT / "docs/config.md").read_text()
    assert [key for key, _ in sections() if f"`{key}`" not in page] == []


def test_plain_defaults_are_documented():
    rows = dict(
        re.findall(r"^\| `([\w.]+)` \| (\S+) \|", (ROOT / "docs/config.md").read_text(), re.MULTILINE)
    )
    for key, field in sections():
        if key in rows and isinstance(field.default, str | int | float) and key not in ("name", "root"):
            written = {"true": True, "false": False}.get(rows[key], rows[key])
            assert type(field.default)(written) == field.default, key


def test_every_metric_is_documented():
    page = (ROOT / "docs/metrics.md").read_text()
    assert [name for name in [*metrics.METRICS, *text_metrics.METRICS] if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_pages_point_to_exist(page):
    text = page.read_text()
    links = [target for target in re.findall(r"\]\(([^)#]+)", text) if not target.startswith("http")]
    named = re.findall(r"`((?:tuner|update|engine|families|methods|streams)/[\w/]+\.\w+)`", text)
    missing = [target for target in links if not (page.parent / target).exists()]
    missing += [target for target in named if not (ROOT / "src/codyra" / target).exists()]
    assert missing == []
