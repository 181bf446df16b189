"""Captions: from a file beside the video, a captioning model, or a program of one's own; cleaned and measured.

The language is py3langid's guess among 140 (a Naive Bayes classifier that comes with the package).

A program gets JSON lines on its standard input, {"key", "path", "start", "end"} for each shot, and answers with JSON
lines {"key", "caption"}, in any order.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import DataError
from ..shots import Shot
from .base import Stage, Weights

LEAST_CONFIDENCE = 0.15  # of a language; below, as with "a dog", it is "und", ISO 639-2's word for undetermined
SOURCES = ("sidecar", "model", "command")
OPENINGS = re.compile(
    r"^(?:arafed|there (?:is|are)|(?:this|the) (?:image|picture|photo|video|clip) (?:shows|depicts|features|is of)"
    r"|(?:an?|the) (?:image|picture|photo|video|clip|shot|close up|close-up) of)\s+", re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True)
class Captions(Stage):
    """source: one of SOURCES. model: folder or file in the weights' folder of a Hugging Face image captioner.

    command: a program and its arguments. tokenizer: folder of CLIP's tokenizer, to count tokens (text beyond 75 is cut
    off in training). overwrite: replace a caption that the file brought.
    """

    source: str = "sidecar"
    model: str = ""
    command: str = ""
    prompt: str = ""
    max_tokens: int = 40
    tokenizer: str = ""
    overwrite: bool = False

    name = "captions"
    columns = {
        "caption": "string", "other_captions": "list<string>", "caption_words": "int32", "caption_tokens": "int32",
        "caption_script": "string", "caption_language": "string", "caption_language_confidence": "float64",
    }  # fmt: skip
    reads = ("sidecar",)
    version = 2

    @property
    def packages(self) -> tuple[str, ...]:
        """Those of a captioner of its own, and of CLIP's tokenizer, where they are used."""
        model = ("torch", "transformers") if self.source == "model" else ()
        return ("py3langid", *model, *(("transformers",) if self.tokenizer and not model else ()))

    @property
    def needs_device(self) -> bool:
        """Only a captioner of its own."""
        return self.source == "model"

    def __post_init__(self):
        if self.source not in SOURCES:
            raise DataError(f"[stages.captions] source: expected one of {', '.join(SOURCES)}, got {self.source!r}")
        if self.source != "sidecar" and not getattr(self, self.source):
            raise DataError(f'[stages.captions] source = "{self.source}" needs {self.source} = "..."')

    def weights(self, folder: Path) -> list[Weights]:
        """The captioner and CLIP's tokenizer, where they are used."""
        needed = [(self.model, "a Hugging Face image captioner, such as Salesforce/blip-image-captioning-large")]
        needed = needed if self.source == "model" else []
        needed += [(self.tokenizer, "tokenizer/ of Stable Diffusion 1.x")] if self.tokenizer else []
        return [Weights(folder / name, source) for name, source in needed]

    def setup(self, device: str, folder: Path) -> Any:
        """(captioner, its processor, CLIP's tokenizer, device, identifier of languages), None where not used."""
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        captioner = processor = tokenizer = None
        if self.source == "model":
            from transformers import AutoModelForImageTextToText, AutoProcessor

            captioner = AutoModelForImageTextToText.from_pretrained(folder / self.model).to(device).eval()
            processor = AutoProcessor.from_pretrained(folder / self.model)
        if self.tokenizer:
            from transformers import CLIPTokenizer

            tokenizer = CLIPTokenizer.from_pretrained(folder / self.tokenizer)
        identifier = LanguageIdentifier.from_model_file(
            MODEL_FILE, norm_probs=True, min_confidence=LEAST_CONFIDENCE
        )  # fmt: skip
        return captioner, processor, tokenizer, device, identifier

    def process(self, shots: Sequence[Shot], models: Any) -> list[dict[str, Any]]:
        """caption is null where there is none; what is said of it is of the first one.

        caption_script: the alphabet of most letters, such as LATIN. caption_language: ISO 639, such as en; "und" where
        its confidence, 0 to 1, is less than LEAST_CONFIDENCE.
        """
        captioner, processor, tokenizer, device, identifier = models
        captions = {shot.key: list(shot.captions) for shot in shots}
        todo = [shot for shot in shots if self.source != "sidecar" and (self.overwrite or not shot.captions)]
        if todo and self.source == "model":
            captions.update(self._describe(todo, captioner, processor, device))
        elif todo:
            captions.update(self._ask(todo))
        cleaned = ([clean for text in captions[shot.key] if (clean := clean_caption(text))] for shot in shots)
        return [_row(texts, tokenizer, identifier) for texts in cleaned]

    def _describe(self, shots: Sequence[Shot], captioner, processor, device: str) -> dict[str, list[str]]:
        import torch

        images = [Image.fromarray(shot.pixels.stills[1]) for shot in shots]
        text = {"text": [self.prompt] * len(images)} if self.prompt else {}
        inputs = processor(images=images, return_tensors="pt", **text).to(device)
        with torch.inference_mode():
            tokens = captioner.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        texts = processor.batch_decode(tokens, skip_special_tokens=True)
        return {shot.key: [text] for shot, text in zip(shots, texts, strict=True)}

    def _ask(self, shots: Sequence[Shot]) -> dict[str, list[str]]:
        lines = (
            {"key": s.key, "path": s.locator["path"], "start": s.locator["start"], "end": s.locator["end"]}
            for s in shots
        )  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        result = subprocess.run(shlex.split(self.command), input=text, capture_output=True, text=True)
        if result.returncode:
            raise DataError(f"the captioning command failed ({result.returncode}): {result.stderr.strip()[-300:]}")
        try:
            answers = [json.loads(line) for line in result.stdout.splitlines() if line.strip()]
            return {answer["key"]: [answer["caption"]] for answer in answers}
        except (ValueError, KeyError, TypeError) as error:
            expected = 'JSON lines {"key", "caption"}'
            raise DataError(f"the captioning command must answer with {expected}: {error}") from None


def clean_caption(text: str) -> str:
    """One line without the openings that captioners repeat ("a video of"), without a sentence that is said twice."""
    text = " ".join(str(text).split()).strip(" \"'")
    while (shorter := OPENINGS.sub("", text)) != text:
        text = shorter
    sentences = dict.fromkeys(re.split(r"(?<=[.!?]) ", text))
    return " ".join(sentences)


def _row(captions: list[str], tokenizer, identifier) -> dict[str, Any]:
    first = captions[0] if captions else None
    language, confidence = identifier.classify(first) if first else (None, None)
    return {
        "caption": first, "other_captions": captions[1:], "caption_words": len(first.split()) if first else 0,
        "caption_tokens": len(tokenizer(first).input_ids) - 2 if first and tokenizer else None,
        "caption_script": _script(first) if first else None,
        "caption_language": language, "caption_language_confidence": confidence,
    }  # fmt: skip


def _script(text: str) -> str | None:
    names = Counter(unicodedata.name(letter, "UNKNOWN").split()[0] for letter in text if letter.isalpha())
    return names.most_common(1)[0][0] if names else None
