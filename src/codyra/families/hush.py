"""Silence for the talkative loaders and writers of the Hugging Face libraries."""

import contextlib
import logging
from collections.abc import Iterator

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def hush() -> Iterator[None]:
    """No load reports, retry notices and bars inside, but for the bars of downloads, which can take minutes.

    What matters in the silenced lines becomes a UserError.
    """
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars, no_hub_bars = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    # transformers switches the bars of downloads together with its own.
    transformers_logging.disable_progress_bar()
    if not no_hub_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
        if no_hub_bars:
            disable_progress_bars()
