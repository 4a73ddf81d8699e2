"""The plot: twenty numbers never lie on one another, on a marker or outside; the line is of the unbeaten."""

import random

import pytest

from codyra.compare.frontier import Box, Spot, frontier, place_labels, unbeaten
from codyra.compare.statistics import Estimate

FRAME = Box(200, 140, 150, 130)
REACH = 5


def crowds():
    rng = random.Random(3)
    yield "spread", [(rng.uniform(60, 340), rng.uniform(20, 260)) for _ in range(20)]
    yield "a heap", [(200 + rng.gauss(0, 8), 140 + rng.gauss(0, 8)) for _ in range(20)]
    yield "one point", [(200, 140)] * 20
    yield "the corner", [(50, 10)] * 20
    yield "a line", [(60 + 2 * i, 140) for i in range(20)]


@pytest.mark.parametrize(
    ("name", "places"), list(crowds()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_labels_do_not_collide(name, places):
    widths = [9.0 if number < 10 else 16.0 for number in range(1, 21)]
    labels = place_labels(places, widths, FRAME)
    boxes = [Box(x, y, width / 2, 6) for (x, y), width in zip(labels, widths, strict=True)]
    markers = [Box(x, y, REACH, REACH) for x, y in places]
    for i, box in enumerate(boxes):
        assert not any(box.meets(other) for other in boxes[:i])
        assert not any(box.meets(other) for other in markers)
        assert abs(box.x - FRAME.x) + box.half_width <= FRAME.half_width + 1e-9
        assert abs(box.y - FRAME.y) + box.half_height <= FRAME.half_height + 1e-9


def test_the_unbeaten():
    # Less x and more y is better.
    points = [(5, 9), (1, 2), (3, 1), (3, 6), (3, 6), (8, 9), (4, 5)]
    assert unbeaten(points) == [1, 3, 0]
    assert unbeaten([]) == []


def test_a_plot_in_words_and_for_one_seed():
    spots = [
        Spot(1, "<b>", 0, Estimate(2.0, None, 1), Estimate(50.0, None, 1)),
        Spot(2, "lora", 1, Estimate(4.0, 1.0, 4), Estimate(60.0, 3.0, 4)),
        Spot(3, "no drift", 2, Estimate(None, None, 2), Estimate(60.0, 3.0, 2)),
    ]
    svg = frontier(spots, title="t", x_name="x", y_name="y")
    assert "2 lora: 4.00 ± 0.50 and 60.00 ± 1.50" in svg
    assert "no drift" not in svg
    assert "<b>" not in svg
    assert svg.count('class="bar"') == 6, "two bars with two caps each, of the one method that has errors"


def test_nothing_to_draw_is_drawn():
    assert frontier([], title="t", x_name="x", y_name="y").startswith("<svg")
