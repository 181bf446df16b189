"""What may differ from frame to frame holds one entry or one per frame, wherever it goes; frame prompts as core's."""

from __future__ import annotations

import comfy.controlnet
import numpy as np
import pytest
import torch
from comfyui_lavie.lavie_models.comfyui.frame_texts import FrameTexts, per_frame, plain
from comfyui_lavie.lavie_models.comfyui.windows import check_frames, conds_of_frames
from comfyui_lavie.nodes.frame_prompts import LaVieFramePrompts, parse_schedule

from nodes import ConditioningAverage, ConditioningConcat, ConditioningSetArea


def condition(kind: str, count: int) -> dict:
    """A condition, as a guider holds it, with `count` entries of a kind; the rest of it serves the whole clip."""
    cond = {"cross_attn": torch.zeros(1, 7, 16), "mask": torch.ones(1, 8, 8)}
    if kind in ("prompts", "masks of a prompt"):
        cond["cross_attn" if kind == "prompts" else "mask"] = torch.zeros(count, 7, 16)
    else:
        control = comfy.controlnet.T2IAdapter(None, 3, 8, "nearest-exact", torch.device("cpu"))
        control.cond_hint_original = torch.zeros(count, 3, 8, 8)
        if kind == "chained ControlNet hints":
            outer = comfy.controlnet.T2IAdapter(None, 3, 8, "nearest-exact", torch.device("cpu"))
            outer.set_previous_controlnet(control)
            control = outer
        cond["control"] = control
    return cond


@pytest.mark.parametrize("kind", ["prompts", "masks of a prompt", "ControlNet hints", "chained ControlNet hints"])
def test_other_numbers_are_refused(kind):
    """Random lengths; positive or negative."""
    rng = np.random.default_rng(len(kind))
    for total in rng.integers(2, 100, 40):
        for count in {1, total, total - 1, total + 1, 2 * total, max(1, total // 2), *rng.integers(1, 200, 3)}:
            negative = [condition("prompts", 1), condition(kind, count)]
            conds = {"positive": [condition("prompts", 1)], "negative": negative}
            if count in (1, total):
                check_frames(conds, total, "total_frames is {}")
                cut = conds_of_frames(conds["negative"], slice(0, 2), total)[1]
                held = cut["control"] if "control" in cut else None
                while held is not None and held.cond_hint_original is None:
                    held = held.previous_controlnet
                entries = held.cond_hint_original if held else cut["cross_attn" if kind == "prompts" else "mask"]
                assert len(entries) == min(2, count)
            else:
                said = f"{kind.removeprefix('chained ')} are for {count} frames, but total_frames is {total}; .*{total}"
                with pytest.raises(ValueError, match=said):
                    check_frames(conds, total, "total_frames is {}")


class TestFramePrompts:
    def test_reads_as_the_text_node_of_core(self):
        inputs = LaVieFramePrompts.define_schema().get_v1_info(LaVieFramePrompts).input
        text = inputs["required"]["schedule"][1]
        assert text["dynamicPrompts"] and text["multiline"]

    @pytest.mark.parametrize(
        ("schedule", "found"),
        [
            ("0: a cat // what it is\n8: a dog", [(0, "a cat"), (8, "a dog")]),
            ("// first\n0: a cat\n\n/* a dog\n8: or a bird */\n4: a fish", [(0, "a cat"), (4, "a fish")]),
            ("0: a /* big */ cat", [(0, "a  cat")]),
            ("0: (a cat:1.2), [dog], {a|b}", [(0, "(a cat:1.2), [dog], {a|b}")]),
        ],
    )
    def test_comments_are_left_out(self, schedule, found):
        assert parse_schedule(schedule, 16) == found

    def test_lines_keep_their_numbers(self):
        with pytest.raises(ValueError, match="line 4 of the schedule"):
            parse_schedule("/* one\n two */\n0: a\nb", 16)


def texts(frames: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(frames, tokens, 16, generator=torch.Generator().manual_seed(seed))


class TestJoined:
    """With core's nodes, in either order."""

    def test_concat(self):
        each, whole = texts(6, 7, 1), texts(1, 5, 2)
        for to, joined in ((each, (each, whole.expand(6, -1, -1))), (whole, (whole.expand(6, -1, -1), each))):
            other = whole if to is each else each
            pair = [[[per_frame(t) if t is each else t, {}]] for t in (to, other)]
            ((got, _),) = ConditioningConcat().concat(*pair)[0]
            assert torch.equal(plain(got), torch.cat(joined, 1))

    @pytest.mark.parametrize("tokens", [5, 7, 9])
    def test_average(self, tokens):
        """Where the second is shorter, core fills it up with zeros."""
        each, whole = texts(6, 7, 1), texts(1, tokens, 2)
        for to, other in ((each, whole), (whole, each)):
            pair = [[[per_frame(t) if t is each else t, {}]] for t in (to, other)]
            ((got, _),) = ConditioningAverage().addWeighted(*pair, 0.25)[0]
            filled = torch.zeros(len(other), to.shape[1], 16)
            kept = min(to.shape[1], other.shape[1])
            filled[:, :kept] = other[:, :kept]
            torch.testing.assert_close(plain(got), 0.25 * to + 0.75 * filled)

    def test_clips_of_different_lengths(self):
        pair = [[[per_frame(texts(n, 7, n)), {}]] for n in (6, 8)]
        for join in (ConditioningConcat().concat, lambda *both: ConditioningAverage().addWeighted(*both, 0.5)):
            with pytest.raises(ValueError, match="prompts for 6 and 8 frames cannot be joined"):
                join(*pair)

    def test_area(self):
        (got,) = ConditioningSetArea().append([[per_frame(texts(6, 7, 1)), {}]], 64, 64, 0, 0, 1.0)
        assert isinstance(got[0][0], FrameTexts) and got[0][1]["area"] == (8, 8, 0, 0)
