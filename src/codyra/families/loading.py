"""Loading a model from a hub id or a local directory, and refusing in one line what codyra cannot train."""

import json
import pickle
import re
import textwrap
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import cached_file

from codyra.errors import UserError
from codyra.families.causal_lm import CausalLM
from codyra.families.family import AnswerSettings, Family, ModelSpec
from codyra.families.hush import hush
from codyra.families.image_text import ImageTextEncoder
from codyra.families.quantized import check_library
from codyra.families.sentence import SentenceEncoder
from codyra.reading import sha256

IMAGE_TEXT_TYPES = ("clip", "siglip")
SENTENCE_TYPES = (
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
SUPPORTED = "codyra trains CLIP, SigLIP, BERT-type sentence encoders and causal language models"

OPEN_CLIP_FILES = ("open_clip_config.json", "open_clip_pytorch_model.bin", "open_clip_model.safetensors")
HF_CHECKPOINTS = {
    (768, 32): "openai/clip-vit-base-patch32",
    (768, 16): "openai/clip-vit-base-patch16",
    (1024, 14): "openai/clip-vit-large-patch14",
    (1280, 14): "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
}
"""Hugging Face checkpoint of the same architecture, by width and patch size of the vision tower."""

SETUP_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.model",
)
"""Beside the weights, what a score depends on."""

LOAD_ERRORS = (
    AssertionError,
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    AttributeError,
    KeyError,
    IndexError,
    TypeError,
    SafetensorError,
    StrictDataclassError,
    pickle.UnpicklingError,
)
"""What `from_pretrained` raises for a missing, foreign or damaged file; it documents no common base class."""


def load_family(spec: ModelSpec, settings: AnswerSettings | None = None) -> Family:
    """Load a model on the CPU, in eval mode, with every parameter frozen and in `spec.dtype`.

    Of `spec.quantize` it is only made sure that `Family.quantize` will have its library. Pickled weights go through
    transformers' weights-only loader; code of a repository is never run.

    Raises:
        UserError: the model cannot be found, reached or read, is of another kind, or lacks weights.
    """
    if spec.quantize is not None:
        check_library()
    family = _load_parts(spec, settings or AnswerSettings())
    family.setup = _setup_files(spec)
    return family


def _load_parts(spec: ModelSpec, answers: AnswerSettings) -> Family:
    _check_place(spec)
    with hush():
        config = _load(spec, "config.json", transformers.AutoConfig)
        is_causal = config.model_type not in (*IMAGE_TEXT_TYPES, *SENTENCE_TYPES)
        if is_causal:
            _check_causal(spec, config)
        if getattr(config, "quantization_config", None) is not None:
            raise UserError(
                f"model '{spec.name}' is quantised and cannot take merged updates; use its full weights"
            )
        if is_causal:
            return _load_causal(spec, answers)
        try:
            sentence_files = {} if config.model_type in IMAGE_TEXT_TYPES else _sentence_files(spec)
            settings = _sentence_settings(sentence_files)
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _load_error(spec, "set of sentence-transformers files", error) from error
        net = _load_weights(spec, transformers.AutoModel)
        tokenizer = _load_tokenizer(spec)
        if config.model_type in IMAGE_TEXT_TYPES:
            image_processor = _load(spec, "image processor", transformers.AutoImageProcessor)
            try:
                return ImageTextEncoder(net, tokenizer, image_processor)
            except UserError:
                raise
            except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
                raise _load_error(spec, "image processor", error) from error
    return SentenceEncoder(
        net,
        tokenizer,
        context=settings.get("max_seq_length") or _context(net, tokenizer),
        lowercase=bool(settings.get("do_lower_case")),
        files=sentence_files,
    )


def _check_causal(spec: ModelSpec, config: Any) -> None:
    """Refuse what is no causal language model of texts, by its config alone."""
    name = f"model '{spec.name}'"
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{name} is an encoder-decoder ({config.model_type}); {SUPPORTED}")
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(f"{name} is of type '{config.model_type}'; {SUPPORTED}")
    if config.get_text_config() is not config:
        raise UserError(
            f"{name} reads more than text ({config.model_type}); give a text-only model of the same kind"
        )
    heads = {
        name
        for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        for name in ([names] if isinstance(names, str) else names)
    }
    if config.architectures and heads.isdisjoint(config.architectures):
        raise UserError(
            f"{name} was saved without a language model head (as {config.architectures[0]}) and cannot answer; "
            "give the checkpoint of the whole model"
        )


def _load_causal(spec: ModelSpec, answers: AnswerSettings) -> CausalLM:
    net: Any = _load_weights(spec, transformers.AutoModelForCausalLM)
    tokenizer = _load_tokenizer(spec)
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):  # what transformers makes of missing files
        raise UserError(
            f"model '{spec.name}' has no tokenizer files; put those of the same model beside its weights"
        )
    path = _fetch(spec, "generation_config.json")
    files = {} if path is None else {path.name: path.read_bytes()}
    try:
        family = CausalLM(net, tokenizer, answers, files)
        family.check_reading()
    except UserError as error:
        raise UserError(f"model '{spec.name}': {error}") from error
    return family


def _load_tokenizer(spec: ModelSpec) -> Any:
    tokenizer = _load(spec, "tokenizer", transformers.AutoTokenizer)
    if not isinstance(tokenizer.model_max_length, int | float):
        raise _load_error(spec, "tokenizer", TypeError("its model_max_length is no number"))
    return tokenizer


def _setup_files(spec: ModelSpec) -> dict[str, str]:
    """SHA-256 of the files that say how inputs become tensors and tensors a network, weights left out."""
    config = _fetch(spec, "config.json")
    assert config is not None, "it was loaded before"
    return {name: sha256(config.parent / name) for name in SETUP_FILES if (config.parent / name).is_file()}


def _check_place(spec: ModelSpec) -> None:
    """Refuse what cannot be a model before anything asks the network for it."""
    directory = Path(spec.name)
    if directory.is_dir():
        if (directory / "config.json").is_file():
            return
        if any((directory / name).is_file() for name in OPEN_CLIP_FILES):
            raise _open_clip_error(spec, (directory / "open_clip_config.json"))
        raise UserError(
            f"model directory {spec.name} has no config.json; give a directory saved by transformers"
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec.name) or spec.name.startswith("."):
        raise UserError(
            f"model directory {spec.name} does not exist; mend model.name or give a Hugging Face hub id"
        )


def _open_clip_error(spec: ModelSpec, config_path: Path | None) -> UserError:
    checkpoint = "openai/clip-vit-base-patch16 or openai/clip-vit-large-patch14"
    if config_path is not None and config_path.is_file():
        vision = json.loads(config_path.read_text())["model_cfg"]["vision_cfg"]
        checkpoint = HF_CHECKPOINTS.get((vision.get("width"), vision.get("patch_size")), checkpoint)
    return UserError(
        f"model '{spec.name}' is an open_clip checkpoint, whose packed attention takes no LoRA; "
        f"use the Hugging Face form of the same model, such as {checkpoint}"
    )


def _load(spec: ModelSpec, part: str, loader: Any, **options: Any) -> Any:
    """`loader.from_pretrained`, with its failures told in one line."""
    try:
        return loader.from_pretrained(spec.name, revision=spec.revision, **options)
    except LOAD_ERRORS as error:
        raise _load_error(spec, part, error) from error
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers library raises, and nothing narrower
            raise
        raise _load_error(spec, part, error) from error


def _load_error(spec: ModelSpec, part: str, error: Exception) -> UserError:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)

    def caused_by(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in causes)

    name = f"model '{spec.name}'"
    if caused_by(GatedRepoError):
        return UserError(f"{name} is gated; accept its terms on the hub and log in with `hf auth login`")
    if caused_by(RevisionNotFoundError):
        return UserError(f"{name} has no revision '{spec.revision}'; mend model.revision")
    if caused_by(LocalEntryNotFoundError, OfflineModeIsEnabled):
        return UserError(
            f"{name} is not in the local cache and the Hugging Face hub cannot be reached; "
            "connect to the network, or give a local directory as model.name"
        )
    if caused_by(RepositoryNotFoundError, HFValidationError):
        return UserError(
            f"{name} is neither a local directory nor a model on the Hugging Face hub; mend model.name"
        )
    if caused_by(EntryNotFoundError) and (open_clip_config := _fetch(spec, "open_clip_config.json")):
        return _open_clip_error(spec, open_clip_config)
    reason = textwrap.shorten(str(error), 200, placeholder=" ...")
    return UserError(
        f"the {part} of {name} cannot be read ({reason}); save the model anew with save_pretrained"
    )


def _fetch(spec: ModelSpec, filename: str) -> Path | None:
    """Path of one file of the model, downloaded when need be; None when the model has no such file."""
    found = cached_file(
        spec.name,
        filename,
        revision=spec.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _load_weights(spec: ModelSpec, loader: Any) -> nn.Module:
    """The frozen network, by one of transformers' Auto classes.

    Raises:
        UserError: weights are missing or do not fit, so that part of the network would be random.
    """
    options = {
        "dtype": getattr(torch, spec.dtype),
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    net, report = _load(spec, "weights", loader, **options)
    missing = set(report["missing_keys"])
    if (
        missing
        and all(key.startswith("pooler.") for key in missing)
        and net.config.model_type in SENTENCE_TYPES
    ):
        # Many sentence encoders were saved without the pooler, which mean pooling does not use.
        net.pooler = None
        missing = set()
    # Heads of a pre-training task stand beside the network and may go; parts of the network itself may not.
    prefix = f"{net.base_model_prefix}."
    parts = {name for name, _ in net.named_children()}
    unexpected = {
        key
        for key in report["unexpected_keys"]
        if parts & {key.split(".")[0], key.removeprefix(prefix).split(".")[0]}
    }
    for keys, what in (
        (missing, "lacks weights for"),
        (report["mismatched_keys"], "has weights of another shape for"),
        (unexpected, "has weights that config.json does not know, such as"),
    ):
        if keys:
            example = sorted(str(key if isinstance(key, str) else key[0]) for key in keys)[0]
            raise UserError(
                f"model '{spec.name}' {what} {example} ({len(keys)} in all); "
                "its config.json and its weights do not belong together"
            )
    return net.eval().requires_grad_(False)


def _sentence_files(spec: ModelSpec) -> dict[str, bytes]:
    """The sentence-transformers files of a model, by relative name; empty for a plain encoder.

    Raises:
        UserError: the model does more than mean pooling and normalising.
    """
    files: dict[str, bytes] = {}

    def fetch(name: str) -> Any:
        path = _fetch(spec, name)
        if path is None:
            return {}
        files[name] = path.read_bytes()
        return json.loads(files[name])

    modules = fetch("modules.json")
    if not modules:
        return {}
    for position, module in enumerate(modules):
        kind = module["type"].rsplit(".", 1)[-1]
        if not re.fullmatch(r"[\w-]*", module["path"]):  # its files are handed on under this name
            raise ValueError(f"modules.json: {module['path']!r} is no folder of the model")
        if kind == "Pooling":
            modes = _pooling_modes(fetch(f"{module['path']}/config.json"))
            if modes != ["mean"]:
                raise UserError(
                    f"model '{spec.name}' pools by {' + '.join(modes) or 'nothing'}; codyra knows mean "
                    "pooling only: choose a mean-pooled sentence encoder"
                )
        elif kind == "Transformer" and position == 0 and not module["path"]:
            fetch("sentence_bert_config.json")
        elif kind != "Normalize":
            raise UserError(
                f"model '{spec.name}' has a sentence-transformers module '{kind}' at '{module['path']}'; "
                "codyra knows a Transformer in the model directory itself, mean Pooling and Normalize"
            )
    if fetch("config_sentence_transformers.json").get("default_prompt_name"):
        raise UserError(
            f"model '{spec.name}' puts a default prompt before every text, which codyra does not know"
        )
    return files


def _sentence_settings(files: dict[str, bytes]) -> dict[str, Any]:
    """Longest text and letter case that sentence-transformers was told of.

    Raises:
        ValueError: the file is there and is something else.
    """
    settings = json.loads(files.get("sentence_bert_config.json", b"{}"))
    length = settings.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise ValueError(f"sentence_bert_config.json: max_seq_length is {length!r}")
    return settings


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    """Names of the pooling modes that are on, in either of the two forms sentence-transformers writes."""
    if "pooling_mode" in config:
        mode = config["pooling_mode"]
        return [mode] if isinstance(mode, str) else list(mode)
    names = {
        key: key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key in config
    }
    return [names[key] for key, value in config.items() if key.startswith("pooling_mode_") and value is True]


def _context(net: Any, tokenizer: Any) -> int:
    """Longest text in tokens, for an encoder that does not say: what positions and tokenizer allow."""
    positions = net.config.max_position_embeddings
    for name, module in net.named_modules():
        # RoBERTa-type models count positions from behind the padding index.
        if (
            name.endswith("position_embeddings")
            and isinstance(module, nn.Embedding)
            and module.padding_idx is not None
        ):
            positions -= module.padding_idx + 1
    return min(positions, tokenizer.model_max_length)
