"""Tiny causal language models, built from their config classes and saved as transformers saves them, with a
byte-level BPE tokenizer trained on the text below."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXT = [
    "Question: what colour is the sky on a clear day? Answer: blue",
    "Question: what colour is the grass in the spring? Answer: green",
    "Question: which animal barks at the door? Answer: a dog",
    "Question: which animal sleeps on the warm stove? Answer: a cat",
    "Translate the word: the house by the river. The house is old and the river is cold.",
    "Choose A, B, C or D. The answer is B because seven is more than three.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))  # 5",
    "Some words are long: accommodation, misunderstanding. Some are short: a, to, on.",
    "Zahlen: 0 1 2 3 4 5 6 7 8 9. Größe, déjà vu, naïve.",
    "yes no true false maybe; good bad better worse; one two three four five.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY = 384
WINDOW = 256


def bpe_tokenizer(
    bos: str | None = "<s>", eos: str | None = "</s>", pad: str | None = "<pad>", chat: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most VOCABULARY entries, every text representable and restored exactly.

    A tokenizer with `bos` puts it before every text; none appends `eos`, as those of Llama and Gemma do not.
    A special token given as None does not exist. `chat` adds a chat template that marks the assistant's words.
    """
    specials = [token for token in (pad, bos, eos) if token is not None]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 3,  # the same ids fit, whichever special tokens exist
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "tie_word_embeddings": False,
}


def save_llama(directory: Path, **options) -> Path:
    """`options` of every saver: bos, eos, pad and chat of `bpe_tokenizer`, seed of the weights, and
    entries of the model's config."""
    return _save(directory, LlamaForCausalLM, LlamaConfig, _SIZES, options)


def save_gemma(directory: Path, **options) -> Path:
    """Embeddings and head are one tensor."""
    return _save(
        directory,
        GemmaForCausalLM,
        GemmaConfig,
        _SIZES | {"head_dim": 8, "tie_word_embeddings": True},
        options,
    )


def save_gemma2(directory: Path, **options) -> Path:
    """Every second layer looks back over a window of 16 tokens; attention scores and logits are capped."""
    sizes = _SIZES | {"head_dim": 8, "tie_word_embeddings": True, "sliding_window": 16}
    return _save(directory, Gemma2ForCausalLM, Gemma2Config, sizes, options)


def save_gemma3(directory: Path, **options) -> Path:
    """The text model of Gemma 3; its first layer looks back over a window of 16 tokens."""
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
    sizes = _SIZES | {"head_dim": 8, "tie_word_embeddings": True} | layers
    return _save(directory, Gemma3ForCausalLM, Gemma3TextConfig, sizes, options)


def save_opt(directory: Path, **options) -> Path:
    """Learnt positions; its layers drop out by themselves."""
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "dropout": 0.5}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": WINDOW}
    return _save(directory, OPTForCausalLM, OPTConfig, sizes, options)


def save_qwen3(directory: Path, **options) -> Path:
    """Queries and keys are normalised."""
    special = {"bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>"}
    return _save(directory, Qwen3ForCausalLM, Qwen3Config, _SIZES | {"head_dim": 8}, special | options)


def save_qwen(directory: Path, **options) -> Path:
    """Biases on q, k and v; no bos, and the pad token is the end token of a document, as Qwen2's are."""
    special = {"bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>"}
    return _save(directory, Qwen2ForCausalLM, Qwen2Config, _SIZES, special | options)


def save_mistral(directory: Path, **options) -> Path:
    """No pad token, as Mistral's tokenizer has none."""
    return _save(
        directory,
        MistralForCausalLM,
        MistralConfig,
        _SIZES | {"sliding_window": None},
        {"pad": None} | options,
    )


def save_gpt2(directory: Path, **options) -> Path:
    """Conv1D linears, learnt positions; nothing before a text and no pad token, as GPT-2's tokenizer has it."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}
    special = {"bos": None, "eos": "<|endoftext|>", "pad": None}
    return _save(directory, GPT2LMHeadModel, GPT2Config, sizes, special | options)


LM_SAVERS: dict[str, Callable[..., Path]] = {
    "llama": save_llama,
    "gemma": save_gemma,
    "qwen": save_qwen,
    "mistral": save_mistral,
    "gpt2": save_gpt2,
}
FURTHER_SAVERS: dict[str, Callable[..., Path]] = {
    "gemma2": save_gemma2,
    "gemma3": save_gemma3,
    "opt": save_opt,
    "qwen3": save_qwen3,
}


def _save(
    directory: Path,
    model: type[PreTrainedModel],
    config: type[PreTrainedConfig],
    sizes: dict[str, object],
    options: dict[str, object],
) -> Path:
    special = {key: options.pop(key) for key in ("bos", "eos", "pad", "chat") if key in options}
    seed = options.pop("seed", 0)
    tokenizer = bpe_tokenizer(**special)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(seed)
    net = model(config(vocab_size=VOCABULARY, **(sizes | ids | options)))
    net.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
