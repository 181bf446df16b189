"""Captions of more than 77 tokens: cut or read in chunks, as ComfyUI reads the same text; counted by `prepare`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comfyui_lavie.datasets.catalogue import Item
from comfyui_lavie.datasets.tokens import long_captions
from comfyui_lavie.lavie_models.comfyui.text_encoder import load_text_encoder as load_clip
from comfyui_lavie.tests.tiny_training import TEXT
from comfyui_lavie.training.batch import Texts
from comfyui_lavie.training.pack_encoders import encode, load_text_encoder

WORDS = "a red fish swims left of the blue car and , near two green boats while birds fly".split()


def caption(words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


@pytest.fixture(scope="module")
def texts():
    return Texts(*load_text_encoder(TEXT), None, "cpu", chunked=True)


def test_chunks_are_read_as_comfyui_reads_them(texts):
    """Random lengths, and those around the edges of a chunk."""
    clip = load_clip(str(TEXT))
    lengths = [0, 1, *np.random.default_rng(0).integers(2, 320, 6)]
    seen = set()
    for seed, words in enumerate(lengths):
        text = caption(words, seed)
        expected = clip.encode_from_tokens(clip.tokenize(text))
        got = texts([text])
        seen.add(got.shape[1])
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected.float().cpu(), atol=1e-4, rtol=1e-4)
    assert 77 in seen and max(seen) > 77


def test_texts_of_one_batch_are_repeated_to_one_length(texts):
    short, long = caption(5), caption(120)
    both = texts([short, long])
    chunks = texts([long]).shape[1] // 77
    assert both.shape[1] == 77 * chunks and chunks > 1
    assert torch.equal(both[0], texts([short])[0].repeat(chunks, 1)) and torch.equal(both[1], texts([long])[0])


def test_cut_is_as_before():
    tokenizer, model = load_text_encoder(TEXT)
    long = caption(120)
    assert torch.equal(Texts(tokenizer, model, None, "cpu")([long]), encode(tokenizer, model, [long]))


class TestCounting:
    @staticmethod
    def items(*captions: str) -> list[Item]:
        return [Item(f"{i}.png", "image", text, 1, 0.0, 8, 8, {}) for i, text in enumerate(captions)]

    def test_counted_and_named(self):
        """"red" and "fish" are one token each; start and end are two more."""
        said = long_captions(self.items("red fish " * 10, "red fish " * 37, "red fish " * 38, "red " * 100), None)
        assert said.startswith("2 captions are longer than 77 tokens, such as 3.png (102), 2.png (78);")
        assert 'long_captions = "chunks"' in said

    def test_nothing_to_say(self):
        assert long_captions(self.items("a red fish", "x" * 70, "x" * 90), None) == ""

    def test_without_a_tokenizer(self, tmp_path):
        said = long_captions(self.items("red fish " * 60), tmp_path / "none")
        assert "1 captions may be longer than 77 tokens; give --tokenizer" in said
