"""CLIP and SigLIP: a vision tower for the examples, a text tower for the prompts."""

# Shapes: N examples, C prompts, D features, H x W pixels
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codyra.errors import UserError
from codyra.families.dual_encoder import Batch, DualEncoder
from codyra.families.evaluation import DecodedImages, EvaluationImages
from codyra.families.family import ClassificationTask, ImageFile
from codyra.families.images import ImageTransform, TrainingImages
from codyra.families.pixel_cache import MappedImages
from codyra.families.saving import save_directory
from codyra.families.tokens import TokenTable

THUMBNAIL = 96


class ImageTextEncoder(DualEncoder):
    """CLIPModel or SiglipModel.

    SigLIP's logit bias adds the same number to every cosine, so neither a softmax over classes or images nor
    an argmax sees it: it is left alone.
    """

    modality = "image"
    default_prompt = "a photo of a {}."
    features_in_usage = "model(**inputs).image_embeds"
    library_name = "transformers"
    pipeline_tag = "zero-shot-image-classification"

    def __init__(self, net: nn.Module, tokenizer: Any, image_processor: Any):
        config: Any = net.config
        super().__init__(net, tokenizer, context=config.text_config.max_position_embeddings)
        self.image_processor = image_processor
        self.transform = ImageTransform.from_processor(image_processor, config.vision_config.image_size)
        self._evaluation = EvaluationImages(self.transform)

    @property
    def towers(self) -> dict[str, str]:
        return {"vision": "vision_model.", "text": "text_model."}

    def logit_scale(self) -> Tensor:
        scale: Tensor = self.net.logit_scale  # type: ignore[assignment]
        return scale.detach().to(torch.promote_types(scale.dtype, torch.float32)).exp()

    def tokenize(self, texts: Sequence[str]) -> TokenTable:
        # SigLIP was trained at full length without a mask and pools the last position: padding is content.
        padding = "max_length" if self.model_type == "siglip" else False
        tokens = self.tokenizer(
            list(texts),
            padding=padding,
            max_length=self.context,
            padding_side="right",
            truncation=False,
            verbose=False,
        )["input_ids"]
        if self.model_type == "clip":
            self._check_end_of_text(texts, tokens)
        # Padded with its end, whose first occurrence is the one pooled: right under both conventions below.
        return TokenTable(tokens, pad_id=tokens[0][-1])

    def _check_end_of_text(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
        """The text tower must pool the last token; with a foreign tokenizer it silently does not."""
        eos = self.net.config.text_config.eos_token_id  # type: ignore[union-attr]
        for text, ids in zip(texts, tokens, strict=True):
            # eos_token_id 2 marks configs older than transformers 4.31; their tower pools the largest id.
            end = max(ids) if eos == 2 else eos
            if end not in ids or ids.index(end) != len(ids) - 1:
                raise UserError(
                    f"the tokenizer does not end '{text}' with the token that the text tower pools "
                    f"(eos_token_id {eos} in config.json); use the tokenizer this model was saved with"
                )

    def prompt_parameters(self) -> Iterator[nn.Parameter]:
        modules: list[Any] = [self.net.text_model]
        if self.model_type == "clip":
            modules.append(self.net.text_projection)
        return chain.from_iterable(module.parameters() for module in modules)

    def encode_prompts(self, batch: Batch) -> Tensor:
        net: Any = self.net
        # No mask: CLIP is causal and never looks right of the token it pools, SigLIP was trained without one.
        pooled_CD: Tensor = net.text_model(input_ids=batch["input_ids"]).pooler_output
        return net.text_projection(pooled_CD) if self.model_type == "clip" else pooled_CD

    def encode_inputs(self, batch: Batch) -> Tensor:
        net: Any = self.net
        pixels_N3HW = self.transform.normalise(batch["pixels"]).to(net.dtype)
        pooled_ND: Tensor = net.vision_model(pixel_values=pixels_N3HW).pooler_output
        return net.visual_projection(pooled_ND) if self.model_type == "clip" else pooled_ND

    def training_inputs(self, task: ClassificationTask) -> TrainingImages:
        return TrainingImages(self.transform, task.train)

    def prepare(
        self,
        tasks: Sequence[ClassificationTask],
        progress: Callable[[int], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._evaluation.prepare(tasks, progress, say)

    def test_inputs(self, task: ClassificationTask) -> MappedImages | DecodedImages:
        return self._evaluation.of_task(task)

    def loose_inputs(self, examples: Sequence[str | ImageFile]) -> DecodedImages:
        return self._evaluation.loose(examples)

    def size_of(self, example: str | ImageFile) -> int:
        height, width = self.transform.size
        return 3 * height * width

    def sample(self, example: str | ImageFile) -> dict[str, Any]:
        assert not isinstance(example, str)
        image = example.open()
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        return {"image": image}

    def save(self, directory: Path) -> None:
        save_directory(directory, self.net, self.tokenizer, self.image_processor)

    def usage(self, prompts: Sequence[str]) -> str:
        padding = '"max_length"' if self.model_type == "siglip" else "True"
        return f"""\
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

folder = "."  # this folder, or its id once it is on a hub
model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
prompts = {list(prompts)!r}
image = Image.new("RGB", (224, 224))  # yours: Image.open("picture.jpg").convert("RGB")
inputs = processor(text=prompts, images=image, padding={padding}, return_tensors="pt")
with torch.no_grad():
    shares = model(**inputs).logits_per_image.softmax(dim=1)[0]
for prompt, share in zip(prompts, shares.tolist()):
    print(f"{{100 * share:.1f}} %  {{prompt}}")
"""
