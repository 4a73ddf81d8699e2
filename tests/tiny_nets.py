"""Networks small enough to follow by hand, and adapters on them that do something."""

import torch
from peft import get_peft_model
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel
from transformers.pytorch_utils import Conv1D

CLIP_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


class TwoLayers(nn.Module):
    """6 -> 8 -> 4 with a tanh between, of nn.Linear or transformers' Conv1D; `first` and `second` are the targets."""

    def __init__(self, layer: type[nn.Module] = nn.Linear, bias: bool = True) -> None:
        super().__init__()
        make = Conv1D if layer is Conv1D else lambda out, inside: nn.Linear(inside, out, bias=bias)
        self.first, self.second = make(8, 6), make(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def tiny_clip(**vision) -> CLIPModel:
    """A random CLIPModel of two small towers."""
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {
        "vocab_size": 50,
        "max_position_embeddings": 12,
        "bos_token_id": 48,
        "eos_token_id": 49,
        "pad_token_id": 49,
    }
    pixels = {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=tower | words, vision_config=tower | pixels, projection_dim=8)
    return CLIPModel(config).eval()


def clip_batch() -> dict[str, Tensor]:
    """Three texts and three images for `tiny_clip`."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 47, (3, 7), generator=generator)
    ids[:, -1] = 49
    return {"input_ids": ids, "pixel_values": torch.randn(3, 3, 16, 16, generator=generator)}


@torch.no_grad()
def cosines(clip: nn.Module) -> Tensor:
    """Cosines of the batch's images with its texts."""
    out = clip(**clip_batch())
    return out.image_embeds @ out.text_embeds.T


def adapted(net: nn.Module, config, adapter_name: str = "default") -> nn.Module:
    """`net` with an adapter whose B is not zero and about half of whose gates are."""
    model = get_peft_model(net, config, adapter_name=adapter_name)
    return fill(model, adapter_name)


@torch.no_grad()
def fill(model: nn.Module, adapter_name: str = "default") -> nn.Module:
    for name, parameter in model.named_parameters():
        if f"lora_B.{adapter_name}" in name:
            parameter.normal_(std=0.3)
        if f"lora_gate.{adapter_name}" in name:
            parameter.mul_(torch.arange(len(parameter)) % 2)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> list[float]:
    """Regression on random data; gives the loss of every step."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    x, y = (torch.randn(16, n, generator=generator, dtype=torch.float64).to(dtype) for n in (6, 4))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
