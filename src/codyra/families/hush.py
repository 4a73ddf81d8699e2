"""Silence for the talkative loaders and writers of the Hugging Face libraries."""

import contextlib
import logging
from collections.abc import Iterator

import transformers


@contextlib.contextmanager
def hush() -> Iterator[None]:
    """No progress bars, load reports and retry notices inside; what matters there becomes a UserError."""
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
