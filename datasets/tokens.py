"""Captions that are longer than a text encoder reads at once, counted with CLIP's vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..place import SetupError, find_comfyui
from .catalogue import Item

TOKENS = 77  # that CLIP reads, a start and an end among them
NAMED = 3


def long_captions(items: Iterable[Item], tokenizer: Path | None) -> str:
    """A sentence on the items whose captions have more than TOKENS tokens, empty if none has.

    tokenizer: folder with CLIP's vocabulary; None: the one that ComfyUI brings.
    """
    # A token is one letter at least, so shorter captions need no tokenizer.
    candidates = [item for item in items if len("".join(item.caption.split()).encode()) > TOKENS - 2]
    if not candidates:
        return ""
    try:
        from transformers import CLIPTokenizer  # slow to import

        folder = tokenizer or find_comfyui() / "comfy" / "sd1_tokenizer"
        count = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (ImportError, SetupError, OSError) as error:
        reason = str(error).splitlines()[0]
        return (
            f"{len(candidates)} captions may be longer than {TOKENS} tokens; give --tokenizer, a folder with "
            f"vocab.json and merges.txt of CLIP, to count them ({reason})"
        )
    tokens = count([item.caption for item in candidates], truncation=False, verbose=False)["input_ids"]
    lengths = sorted(((len(ids), item.key) for ids, item in zip(tokens, candidates, strict=True)), reverse=True)
    longer = [f"{key} ({length})" for length, key in lengths if length > TOKENS]
    if not longer:
        return ""
    return (
        f"{len(longer)} captions are longer than {TOKENS} tokens, such as {', '.join(longer[:NAMED])}; training cuts "
        'them there, unless encoders.long_captions = "chunks"'
    )
