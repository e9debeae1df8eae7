"""CLIP's byte-pair tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import Tensor

from tcl.mends import import_open_clip

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

CONTEXT_LENGTH = 77
REMEMBERED = 1 << 14
"""Texts whose tokens are kept: epochs of a small data set, and prompts, ask for the same ones again."""


@lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    """open_clip's tokenizer with OpenAI's spelling of the two special tokens, should a text contain them."""
    import_open_clip()
    import regex
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    spellings = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    pattern = tokenizer.pat.pattern
    for ours, openai in spellings.items():
        tokenizer.encoder[openai] = tokenizer.encoder.pop(ours)
        tokenizer.cache[openai] = openai
        pattern = pattern.replace(ours, regex.escape(openai))
        del tokenizer.cache[ours]
    tokenizer.pat = regex.compile(pattern, regex.IGNORECASE)
    tokenizer.encode = lru_cache(maxsize=REMEMBERED)(tokenizer.encode)
    return tokenizer


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Token ids of texts: [n, context_length] int64, padded with 0.

    Texts are repaired (ftfy), HTML-unescaped twice, white space folded, lower case. A text that is too long keeps its
    first `context_length` tokens, the last of them replaced by the end token.
    """
    return _tokenizer()([texts] if isinstance(texts, str) else list(texts), context_length=context_length)
