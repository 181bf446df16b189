"""Prompt sets by name or file.

Contract: a set keeps the order of its source and every entry of it, repeated prompts too; `distinct` joins these. What
cannot be read is an EvaluationError that names file, place and what was expected.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import EvaluationError

FOLDER = Path(__file__).parent
MSRVTT = "msrvtt:"
MSRVTT_SPLIT = "test"
TEXT_KEYS, TAG_KEYS = ("prompt", "caption", "text", "prompt_en", "sentence"), ("tags", "dimension", "category")


@dataclass(frozen=True)
class Prompt:
    """A text, and what the set says of it: VBench's dimensions, a class of UCF-101, a video of MSR-VTT."""

    text: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """Prompts under a name, in order."""

    name: str
    prompts: tuple[Prompt, ...]

    def distinct(self) -> PromptSet:
        """Each text once, where it first stands, with the tags of all its entries."""
        tags: dict[str, dict[str, None]] = {}
        for prompt in self.prompts:
            tags.setdefault(prompt.text, {}).update(dict.fromkeys(prompt.tags))
        return PromptSet(self.name, tuple(Prompt(text, tuple(found)) for text, found in tags.items()))

    def having(self, tags: Iterable[str]) -> PromptSet:
        """Those with any of the tags. Raises EvaluationError for a tag that no prompt has."""
        there, wanted = {tag for prompt in self.prompts for tag in prompt.tags}, set(tags)
        if unknown := sorted(wanted - there):
            offered = ", ".join(sorted(there)) or "none at all"
            raise EvaluationError(f"no prompt of {self.name} has the tag {', '.join(unknown)}; it has {offered}")
        return PromptSet(self.name, tuple(prompt for prompt in self.prompts if wanted & set(prompt.tags)))


def load_prompts(source: str) -> PromptSet:
    """A shipped set ("vbench", "ucf101"), MSR-VTT's test captions ("msrvtt:FILE"), or a file of one's own.

    Files: .txt (one a line), .json (a list of texts, or of objects with "prompt" and perhaps "tags"), .jsonl (the
    same, one a line), .csv (a column "prompt", perhaps "tags", parted by spaces).
    """
    if source in SHIPPED:
        return SHIPPED[source]()
    if source.startswith(MSRVTT):
        return _msrvtt(Path(source.removeprefix(MSRVTT)))
    path = Path(source)
    if path.suffix not in READERS:
        raise EvaluationError(
            f"expected a prompt set {', '.join(SHIPPED)}, {MSRVTT}FILE, or a file {', '.join(READERS)}; got {source}"
        )
    prompts = tuple(READERS[path.suffix](path, _read(path)))
    if not prompts:
        raise EvaluationError(f"{path} holds no prompts")
    return PromptSet(path.stem, prompts)


def vbench() -> PromptSet:
    """VBench's 946 entries, 944 of them distinct; the tags are its 16 dimensions. See NOTICE.md."""
    path = FOLDER / "vbench.jsonl"
    return PromptSet("vbench", tuple(_from_lines(path, _read(path))))


def ucf101() -> PromptSet:
    """The 101 class names as words in lower case, "apply eye makeup"; the tag is the name as the dataset spells it."""
    names = _read(FOLDER / "ucf101.txt").split()
    return PromptSet("ucf101", tuple(Prompt(" ".join(re.findall("[A-Z][a-z]*", n)).lower(), (n,)) for n in names))


def _msrvtt(path: Path) -> PromptSet:
    """Of each of the 2,990 test videos the caption with the lowest number; the tag is the video.

    Expects the dataset's own JSON: {"videos": [{"video_id", "split"}], "sentences": [{"video_id", "sen_id",
    "caption"}]}.
    """
    values = _json(path, _read(path))
    try:
        wanted = [video["video_id"] for video in values["videos"] if video["split"] == MSRVTT_SPLIT]
        first: dict[str, dict] = {}
        for sentence in sorted(values["sentences"], key=lambda sentence: sentence["sen_id"]):
            first.setdefault(sentence["video_id"], sentence)
        prompts = tuple(Prompt(first[video]["caption"], (video,)) for video in wanted)
    except (TypeError, KeyError) as error:
        raise EvaluationError(
            f'{path} is not MSR-VTT\'s own JSON: expected lists "videos" (video_id, split) and "sentences" (video_id, '
            f"sen_id, caption), and a caption for every {MSRVTT_SPLIT} video; missing: {error}"
        ) from None
    if not prompts:
        raise EvaluationError(f"{path} has no videos of the split {MSRVTT_SPLIT}; take the file of the test videos")
    return PromptSet("msrvtt", prompts)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise EvaluationError(f"{path} is not UTF-8 text ({where}); save it as UTF-8") from None
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}") from None


def _json(path: Path, text: str):
    try:
        return json.loads(text)
    except ValueError as error:
        raise EvaluationError(f"{path} is not JSON: {error}") from None


def _from_text(path: Path, text: str) -> Iterable[Prompt]:
    """Lines; empty ones part paragraphs and are no prompts."""
    return [Prompt(line.strip()) for line in text.splitlines() if line.strip()]


def _from_json(path: Path, text: str) -> Iterable[Prompt]:
    values = _json(path, text)
    if not isinstance(values, list):
        raise EvaluationError(f"{path}: expected a list of prompts, got {type(values).__name__}")
    return [_prompt_of(value, f"{path}, entry {number}") for number, value in enumerate(values, 1)]


def _from_lines(path: Path, text: str) -> Iterable[Prompt]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    places = [(f"{path}, line {number}", line) for number, line in lines]
    return [_prompt_of(_json(place, line), place) for place, line in places]


def _from_csv(path: Path, text: str) -> Iterable[Prompt]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    return [_prompt_of(dict(row), f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _prompt_of(value, place: str) -> Prompt:
    """A prompt from a text or a mapping. Raises EvaluationError."""
    if isinstance(value, str):
        value = {TEXT_KEYS[0]: value}
    text = next((value[key] for key in TEXT_KEYS if key in value), None) if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise EvaluationError(f"{place}: expected a text, or {' or '.join(TEXT_KEYS)} with one, got {value!r:.80}")
    tags = next((value[key] for key in TAG_KEYS if value.get(key)), ())
    tags = tags.split() if isinstance(tags, str) else tags
    if not isinstance(tags, (list, tuple)) or not all(isinstance(tag, str) for tag in tags):
        raise EvaluationError(f"{place}: expected tags as a list of texts, got {tags!r:.80}")
    return Prompt(text.strip(), tuple(tags))


SHIPPED: dict[str, Callable[[], PromptSet]] = {"vbench": vbench, "ucf101": ucf101}
READERS = {".txt": _from_text, ".json": _from_json, ".jsonl": _from_lines, ".csv": _from_csv}
