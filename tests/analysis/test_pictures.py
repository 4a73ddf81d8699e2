"""Pictures: well-formed, self-contained, and unimpressed by what things are called."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import codyra.report
from codyra.analysis import svg
from codyra.analysis.bars import Bars, bar_chart
from codyra.analysis.drift import drift_chart
from codyra.analysis.rank_maps import RankMap, rank_maps
from codyra.analysis.scatter import Spot, scatter

HOSTILE = "</text><script>alert(1)</script>&\x00\x1b[31m\ud800\u202e\"'" + "x" * 300
SVG = "{http://www.w3.org/2000/svg}"


def pictures(name: str) -> dict[str, str]:
    spots = [Spot(style, rank, 10.0 * style, 50 - rank) for style in range(5) for rank in (1, 16, 4096)]
    return {
        "scatter": scatter(spots, [name] * 5, start=60.0, task=name, num_others=3),
        "flat scatter": scatter([Spot(0, 1, 0.0, 50.0)], [name], start=50.0, task=name, num_others=1),
        "bars": bar_chart(
            [Bars("kind", name, [-3.0, 2.0]), Bars("layer", name, [0.0, 0.0])],
            [name, "b"],
            title=name,
            axis=name,
        ),
        "no bars": bar_chart([Bars("model", name, [0.0])], [name], title=name, axis=name),
        "maps": rank_maps([RankMap(name, {(name, 0): (3, 16), (name, None): (16, 16)}), RankMap(name, {})]),
        "drift": drift_chart([(number, 1e-30 * number, 1e9) for number in range(1, 60)]),
        "no drift": drift_chart([(1, 0.0, 0.0)]),
    }


@pytest.mark.parametrize("name", ["digits", HOSTILE, "", "Größe 数字"])
def test_every_picture_is_one_well_formed_file(name):
    for title, picture in pictures(name).items():
        root = ElementTree.fromstring(picture.encode("utf-8"))
        assert root.tag == f"{SVG}svg", title
        width, height = (float(root.get(side)) for side in ("width", "height"))
        assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            "svg", "title", "desc", "rect", "line", "circle", "polygon", "polyline", "text", "g",
        }, title  # fmt: skip
        assert not re.search(r"href|url\(|nan|inf\b", picture), title
        for element in root.iter():
            for axis, most in (("x", width), ("y", height), ("cx", width), ("cy", height)):
                assert 0 <= float(element.get(axis) or 0) <= most, (title, element.attrib)
        assert root.find(f"{SVG}rect").get("fill") == "#ffffff"


def test_the_colours_are_those_of_the_report():
    style = (Path(codyra.report.__file__).parent / "style.css").read_text().partition("@media")[0]
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", style))
    assert tuple(colours[name] for name in ("ink", "soft", "line")) == (svg.INK, svg.SOFT, svg.LINE)
    assert list(svg.SERIES) == [colours[f"s{number}"] for number in range(len(svg.SERIES))]
    assert list(svg.HEAT) == [colours[f"h{level}"] for level in range(len(svg.HEAT))]


def test_markers_differ_in_shape_and_have_one_area():
    shapes = [svg.marker(style, 0, 0, 10) for style in range(len(svg.SERIES))]
    assert len({re.sub('fill="#\\w+"', "", shape) for shape in shapes}) == len(shapes)
    for shape in shapes[1:]:
        points = re.search('points="([^"]*)"', shape)[1].split()
        corners = [tuple(map(float, point.split(","))) for point in points]
        area = sum(
            x * next_y - next_x * y
            for (x, y), (next_x, next_y) in zip(corners, [*corners[1:], corners[0]], strict=True)
        )
        assert abs(area) / 2 == pytest.approx(314, rel=0.02)
