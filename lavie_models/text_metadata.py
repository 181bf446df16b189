"""What the file of a small text encoder says about it: sizes and tokenizer, held against what can be built.

Contract: both functions raise CheckpointError naming the field that cannot be used.
"""

from __future__ import annotations

from collections.abc import Mapping

from .errors import CheckpointError
from .metadata import CONFIG, TOKENIZER, Range, check_fields, read_object
from .tokenizer import END, START

TOKENS = Range(2, 2**20)
TOKEN = Range(0, 2**20 - 1)
FIELDS = {
    "vocab_size": TOKENS,
    "hidden_size": Range(1, 8192),
    "intermediate_size": Range(1, 65536),
    "num_hidden_layers": Range(1, 64),
    "num_attention_heads": Range(1, 256),
    "max_position_embeddings": Range(3, 4096),
    "hidden_act": ("quick_gelu", "gelu"),
    "layer_norm_eps": Range(1e-12, 0.1),
    "bos_token_id": TOKEN,
    "eos_token_id": TOKEN,
    "pad_token_id": TOKEN,
}


def read_text_config(metadata: Mapping[str, str]) -> dict:
    """The fields of FIELDS, as transformers and ComfyUI name them."""
    config = read_object(metadata, CONFIG)
    check_fields(config, FIELDS, CONFIG)
    if config["hidden_size"] % config["num_attention_heads"]:
        raise CheckpointError(
            f"{CONFIG}: hidden_size {config['hidden_size']} is no multiple of num_attention_heads "
            f"{config['num_attention_heads']}"
        )
    outside = [name for name in ("bos", "eos", "pad") if config[f"{name}_token_id"] >= config["vocab_size"]]
    if outside:
        raise CheckpointError(f"{CONFIG}: {outside[0]}_token_id is outside of vocab_size {config['vocab_size']}")
    return config


def read_tokenizer(metadata: Mapping[str, str], tokens: int) -> tuple[dict[str, int], list[str]]:
    """(vocabulary, merges) of a tokenizer that gives ids below ``tokens``."""
    tokenizer = read_object(metadata, TOKENIZER)
    check_fields(tokenizer, {"vocab": _Kind(dict), "merges": _Kind(list)}, TOKENIZER)
    vocab, merges = tokenizer["vocab"], tokenizer["merges"]
    ids = Range(0, tokens - 1)
    wrong = next((token for token, number in vocab.items() if number not in ids), None)
    if wrong is not None:
        raise CheckpointError(f"{TOKENIZER}: the id of {wrong!r} must be {ids}, got {vocab[wrong]!r}")
    if missing := {START, END} - set(vocab):
        raise CheckpointError(f"{TOKENIZER}: the vocabulary lacks {sorted(missing)}")
    broken = next((merge for merge in merges if not isinstance(merge, str) or len(merge.split(" ")) != 2), None)
    if broken is not None:
        raise CheckpointError(f"{TOKENIZER}: a merge must be two tokens with a space between, got {broken!r}")
    return vocab, merges


class _Kind:
    """Values of one type, as `check_fields` asks."""

    def __init__(self, kind: type):
        self.kind = kind

    def __contains__(self, value) -> bool:
        return isinstance(value, self.kind)

    def __str__(self) -> str:
        return f"a {self.kind.__name__}"
