"""One training step of a CLIP ViT-B/16 with random weights, taken by codyra and in the ways it is compared with.

Every `Step` is made once and then called; each call is one or more steps. codyra's reads, crops and normalises its
images, as training does; all others are given ready-made pixels, which is to their advantage.
"""

# Shapes: N images of the batch, C classes, L tokens of the longest prompt, D features
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from image_cache import read_task, write_images
from in_training import Training
from peft import LoraConfig, get_peft_model
from random_clips import SEED, VIT_B16, class_names, new_family, prompts_of
from torch import Tensor, nn
from torch.nn import functional as F

import codyra
from codyra.families.dual_encoder import text_to_image_loss
from codyra.streams import Task

MODEL = VIT_B16
RANK = 16
CONTEXT = 77
TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
LR = 5e-4
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def image_task(folder: Path, num_classes: int) -> Task:
    """A task with one JPEG of 500 x 375 per class and split."""
    for number, name in enumerate(class_names(0, num_classes)):
        for split in ("train", "test"):
            write_images(folder / split / name, 1, seed=number)
    return read_task(folder, "a photo of a {}.")


class Step(ABC):
    """Called, it takes steps; `count` says how many in one call."""

    count = 1

    def __init__(self, batch: int, classes: int, precision: str) -> None:
        self.batch, self.classes, self.precision = batch, classes, precision

    @abstractmethod
    def __call__(self) -> None: ...


class Codyra(Step):
    """The engine's own steps of a task: images, adapters, loss, optimizer, proximal step, records."""

    count = 2

    def __init__(self, batch: int, classes: int, precision: str) -> None:
        super().__init__(batch, classes, precision)
        self._folder = tempfile.TemporaryDirectory()
        task = image_task(Path(self._folder.name) / "images", classes)
        train = {"batch_size": batch, "precision": precision, "lr": LR}
        self._training = Training(new_family(MODEL).to(DEVICE), task, train, {"r": RANK}, self.count)
        self._training.put_adapters_on()
        self._training.begin()
        self.objective = self._training.objective

    def __call__(self) -> None:
        self._training.all_steps()


class OfTheModel(Step):
    """Steps of a loop as anyone writes it: pixels and token ids in, the same loss, AdamW."""

    prompts_at_length = False
    """True pads to CLIP's 77 tokens, False to the longest prompt."""

    def __init__(self, batch: int, classes: int, precision: str) -> None:
        super().__init__(batch, classes, precision)
        encoder = new_family(MODEL).to(DEVICE)
        self.net: Any = encoder.net.requires_grad_(True)
        generator = torch.Generator().manual_seed(SEED)
        side = MODEL.vision_config.image_size
        self._pixels = torch.randn(batch, 3, side, side, generator=generator).to(DEVICE)
        self._labels = torch.randint(0, classes, (batch,), generator=generator).to(DEVICE)
        tokens = encoder.tokenize(prompts_of(class_names(0, classes)))
        self._ids = tokens.take(range(classes))["input_ids"].to(DEVICE)
        if self.prompts_at_length:
            self._ids = F.pad(self._ids, (0, CONTEXT - self._ids.shape[1]), value=tokens.pad_id)
        self.optimizer = self.put_on()

    @abstractmethod
    def put_on(self) -> torch.optim.Optimizer | None:
        """Make the network trainable."""

    def __call__(self) -> None:
        net = self.net
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.precision == "bf16"):
            images = net.visual_projection(net.vision_model(pixel_values=self._pixels).pooler_output)
            texts = net.text_projection(net.text_model(input_ids=self._ids).pooler_output)
        images_ND, texts_CD = (F.normalize(features.float(), dim=-1) for features in (images, texts))
        logits_NC = net.logit_scale.detach().exp() * images_ND @ texts_CD.T
        loss = F.cross_entropy(logits_NC, self._labels)
        (loss + text_to_image_loss(logits_NC, self._labels, self.classes)).backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()


class Floor(OfTheModel):
    """The frozen model with prompts at their length, forward and backward through activations; nothing is trained."""

    def put_on(self) -> None:
        self.net.requires_grad_(False)
        for embeddings in (self.net.vision_model.embeddings, self.net.text_model.embeddings):
            embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_())


class Peft(OfTheModel):
    """peft's LoRA of the same rank on the same linears, prompts at their length."""

    def put_on(self) -> torch.optim.Optimizer:
        model = get_peft_model(self.net, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
        return torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=LR)


class PeftPadded(Peft):
    """The same with prompts padded to 77 tokens, as official code does."""

    prompts_at_length = True


class CodyraInPeft(OfTheModel):
    """codyra's tuner through peft, in the same loop as its LoRA."""

    def put_on(self) -> torch.optim.Optimizer:
        model = get_peft_model(self.net, codyra.CodyraConfig(r=RANK, target_modules=TARGETS))
        optimizer = torch.optim.AdamW(codyra.param_groups(model, LR), lr=LR)
        codyra.ProximalStep(optimizer, model, total_steps=10**6, kappa_total=1.0)
        return optimizer


class InWeightSpace(nn.Module):
    """y = (W + B diag(w) A) x + b: every step makes the sum, and autograd the gradient of all of it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A_RD = nn.Parameter(torch.empty(RANK, base.in_features))
        self.B_OR = nn.Parameter(torch.zeros(base.out_features, RANK))
        self.gate_R = nn.Parameter(torch.randn(RANK))
        nn.init.kaiming_uniform_(self.A_RD, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base.weight + (self.B_OR * self.gate_R) @ self.A_RD, self.base.bias)


class Official(OfTheModel):
    """The official graph restated: the update in weight space on six linears of every block, prompts padded."""

    prompts_at_length = True

    def put_on(self) -> torch.optim.Optimizer:
        self.net.requires_grad_(False)
        for name, module in list(self.net.named_modules()):
            parent, _, child = name.rpartition(".")
            if child in TARGETS and isinstance(module, nn.Linear):
                setattr(self.net.get_submodule(parent), child, InWeightSpace(module).to(DEVICE))
        return torch.optim.AdamW([weight for weight in self.net.parameters() if weight.requires_grad], lr=LR)


STEPS: dict[str, type[Step]] = {
    "codyra": Codyra,
    "codyra in peft": CodyraInPeft,
    "floor": Floor,
    "peft LoRA, padded (a)": PeftPadded,
    "peft LoRA (b)": Peft,
    "official graph (c)": Official,
}
