from itertools import pairwise

import numpy as np
import pytest

from codyra.demo.concepts import FAMILIES
from codyra.demo.styles import SIDE, carved, chalk, generator, mosaic, neon, pose
from codyra.demo.world import FREQUENCY, SYNONYMS, picture

CONCEPTS = [(family, concept) for family, members in FAMILIES.items() for concept in members]


def test_a_picture_depends_on_seed_and_index_alone():
    later_first = [picture(3, index) for index in (7, 2)]
    again = [picture(3, index) for index in (2, 7)]
    assert [p.image.tobytes() for p in later_first] == [p.image.tobytes() for p in reversed(again)]
    assert [p.caption for p in later_first] == [p.caption for p in reversed(again)]


def test_seed_and_index_both_change_the_picture():
    bytes_seen = {picture(seed, index).image.tobytes() for seed in range(3) for index in range(20)}
    assert len(bytes_seen) == 60


def test_pictures_are_of_the_size_the_model_reads():
    assert picture(0, 0).image.size == (SIDE, SIDE)
    assert picture(0, 0).image.mode == "RGB"


def test_the_world_lacks_what_it_says_it_lacks():
    seen = {picture(1, index).concept for index in range(600)}
    absent = {concept for concept, frequency in FREQUENCY.items() if frequency == 0}
    assert absent
    assert not seen & absent
    assert seen <= {concept for _, concept in CONCEPTS}


def test_captions_use_the_right_article_and_mostly_name_the_concept():
    drawn = [picture(2, index) for index in range(400)]
    for caption in (p.caption for p in drawn):
        words = caption.split()
        assert not any(a == "a" and b[0] in "aeiou" for a, b in pairwise(words)), caption
        assert "{" not in caption
    named = [any(name in p.caption for name in (p.concept, *SYNONYMS.get(p.concept, ()))) for p in drawn]
    assert 0.8 < np.mean(named) < 0.97


def test_tables_name_concepts_that_exist():
    names = [concept for _, concept in CONCEPTS]
    assert len(names) == len(set(names))
    assert set(FREQUENCY) | set(SYNONYMS) <= set(names)


@pytest.mark.parametrize(("family", "concept"), CONCEPTS)
def test_a_concept_stays_within_its_square(family, concept):
    for stroke in FAMILIES[family][concept]():
        assert np.isfinite(stroke.points).all()
        assert np.abs(stroke.points).max() <= 1.1
        assert len(stroke.points) >= 2


@pytest.mark.parametrize("style", [chalk, neon, mosaic, carved])
def test_every_style_draws_every_class_visibly(style):
    # The same generator with and without strokes: the difference is what was drawn.
    strokes = pose(FAMILIES["face"]["happy"](), generator("pose"))
    drawn = np.asarray(style(strokes, generator("ink")), dtype=float)
    empty = np.asarray(style([], generator("ink")), dtype=float)
    assert drawn.shape == (SIDE, SIDE, 3)
    assert np.abs(drawn - empty).mean() > 5
