"""A CLIP tokenizer from the vocabulary and merges that a text encoder's file carries in its metadata."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(vocab: dict[str, int], merges: list[str]):
    """A transformers.CLIPTokenizer; `merges` are "left right" pairs, the first applied first.

    Goes through the two files every release of transformers reads, since its constructors differ between releases.
    """
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        Path(folder, "tokenizer_config.json").write_text(
            json.dumps(
                {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": START, "eos_token": END,
                 "unk_token": END, "pad_token": END}
            ),
            encoding="utf-8",
        )
        return CLIPTokenizer.from_pretrained(folder)
