"""Text as a model takes it: windows of tokens, to calibrate and to evaluate on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

WINDOW = 1024  # tokens
_BYTE_VOCABULARY = 256


class Windows(NamedTuple):
    """Windows of a text.

    Attributes:
        ids: token ids `[B, T]`.
        num_bytes: of the text of all tokens but the first of each window, which are not predicted.
    """

    ids: torch.Tensor
    num_bytes: int


def read_windows(text: str, model_path: Path, config: Any, num_windows: int) -> Windows:
    """Return the first windows of a text, as many as it has up to a number.

    A model with a vocabulary of 256 reads bytes; others have a tokenizer in their folder.

    Raises:
        ValueError: the text is shorter than a window.
    """
    tokenizer: Any = None
    if config.vocab_size != _BYTE_VOCABULARY:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model_path)
    ids = list(text.encode()) if tokenizer is None else list(tokenizer(text)["input_ids"])
    count = min(num_windows, len(ids) // WINDOW)
    if count == 0:
        raise ValueError(f"text must have {WINDOW} tokens or more, got {len(ids)}")
    windows = torch.tensor(ids[: count * WINDOW]).reshape(count, WINDOW)
    num_bytes = count * (WINDOW - 1)
    if tokenizer is not None:
        predicted = [str(tokenizer.decode(window[1:])) for window in windows]
        num_bytes = sum(len(part.encode()) for part in predicted)
    return Windows(windows, num_bytes)
