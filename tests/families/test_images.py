"""Pixels against Hugging Face's own image processors; crops against the rule of docs/method.md."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from codyra.errors import UserError
from codyra.families.images import ImageTransform, MemoryCache, random_crop_box

SIZES = [(32, 32), (224, 224), (225, 224), (300, 199), (131, 517), (20, 9), (7, 64), (640, 481)]
MODES = ["RGB", "L", "P", "1", "CMYK"]


def picture(size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Image.Image:
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


CLIP = CLIPImageProcessorPil()
# The crop is larger than the resized image: the processor pads with black.
PADDING = CLIPImageProcessorPil(size={"shortest_edge": 31}, crop_size={"height": 48, "width": 48}, resample=2)
PROCESSORS = {"clip": (CLIP, 224), "padding": (PADDING, 48), "siglip": (SiglipImageProcessorPil(), 224)}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_evaluation_pixels_equal_the_image_processor(name, size):
    processor, side = PROCESSORS[name]
    transform = ImageTransform.from_processor(processor, side)
    image = picture(size)
    pixels = transform.evaluation_pixels(image)
    assert pixels.dtype == torch.uint8
    ours = transform.normalise(pixels[None])
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_become_the_processors_pixels_once_they_are_rgb(mode):
    transform = ImageTransform.from_processor(CLIP, 224)
    image = picture((250, 230), mode)
    ours = transform.normalise(transform.evaluation_pixels(image.convert("RGB"))[None])
    theirs = CLIP(image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_a_processor_without_rescaling_and_normalising():
    processor = CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    transform = ImageTransform.from_processor(processor, 224)
    image = picture((230, 240))
    ours = transform.normalise(transform.evaluation_pixels(image)[None])
    theirs = torch.from_numpy(np.stack(processor(image)["pixel_values"])).float()
    assert torch.equal(ours, theirs)


def test_a_processor_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"\(224, 224\).*takes 336 x 336"):
        ImageTransform.from_processor(CLIP, 336)


def test_a_processor_that_leaves_the_size_open_is_refused():
    with pytest.raises(UserError, match="None"):
        ImageTransform.from_processor(CLIPImageProcessorPil(do_center_crop=False), 224)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crops_stay_inside_and_keep_scale_and_ratio(size):
    width, height = size
    rng = random.Random(0)
    for _ in range(300):
        left, top, right, bottom = random_crop_box(width, height, rng)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        # Half a pixel of rounding on either side.
        area_slack, ratio_slack = (right - left + bottom - top), 1 / min(size)
        if 0.675 < width / height < 1.48:
            assert 0.9 * width * height - area_slack <= (right - left) * (bottom - top)
        assert 3 / 4 * (1 - ratio_slack) <= (right - left) / (bottom - top) <= 4 / 3 * (1 + ratio_slack)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((600, 400), (33, 0, 566, 400)),  # a 3:2 photograph: ratio clamped to 4/3, 533 wide
        ((400, 600), (0, 33, 400, 566)),
        ((150, 100), (8, 0, 141, 100)),
        ((1000, 100), (433, 0, 566, 100)),
    ],
)
def test_elongated_images_take_the_centred_fallback(size, box):
    rng = random.Random(1)
    assert {random_crop_box(*size, rng) for _ in range(50)} == {box}


def test_the_fallback_of_an_image_inside_the_ratios_is_the_whole_image():
    class Unlucky(random.Random):
        def uniform(self, low, high):
            return high  # the whole area at ratio 4/3: fits no square

    assert random_crop_box(100, 100, Unlucky()) == (0, 0, 100, 100)


def test_crops_reach_every_corner():
    rng = random.Random(2)
    boxes = [random_crop_box(40, 40, rng) for _ in range(2000)]
    for side, extreme in ((0, 0), (1, 0), (2, 40), (3, 40)):
        assert any(box[side] == extreme for box in boxes)
    lefts = np.array([box[0] for box in boxes])
    rights = np.array([40 - box[2] for box in boxes])
    # Uniform over positions: as much room on the left as on the right, on average.
    assert abs(lefts.mean() - rights.mean()) < 4 * np.sqrt((lefts - rights).var() / len(boxes))


def test_training_pixels_are_the_crop_resized():
    transform = ImageTransform.from_processor(CLIP, 224)
    image = picture((300, 280))
    pixels = transform.training_pixels(image, random.Random(5))
    box = random_crop_box(300, 280, random.Random(5))
    expected = np.array(image.resize((224, 224), Image.Resampling.BICUBIC, box=box))
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    assert not torch.equal(pixels, transform.training_pixels(image, random.Random(6)))


def test_the_cache_keeps_within_its_budget_and_stays_right_beyond_it():
    made = []

    def make(key):
        made.append(key)
        return torch.full((10,), key, dtype=torch.uint8)

    cache = MemoryCache(25, lambda tensor: tensor.nbytes)
    for _ in range(2):
        assert [int(cache.get(key, lambda key=key: make(key))[0]) for key in range(3)] == [0, 1, 2]
    assert made == [0, 1, 2, 2]
