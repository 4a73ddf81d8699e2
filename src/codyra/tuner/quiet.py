"""What bitsandbytes says when peft imports it, left out; this is imported before anything that imports peft."""

import logging


def _matters(record: logging.LogRecord) -> bool:
    """False for the line about a fast kernel for 4 bit on CPUs, which is not installed and not used here."""
    return "gemm_4bit_forward" not in record.getMessage()


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_matters)
