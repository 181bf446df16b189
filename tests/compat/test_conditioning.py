"""Conditioning over steps, frames and areas.

Predictions are compared with those of the parts that a conditioning is made of, each predicted by itself.
"""

import pytest
import torch
from comfy_extras.nodes_mask import SolidMask
from comfyui_lavie.lavie_models.comfyui.frame_texts import per_frame
from comfyui_lavie.nodes.frame_prompts import LaVieFramePrompts, blend, blend_weights, parse_schedule
from comfyui_lavie.tests.compat.kit import FRAMES, guider, moving_mask, noise, random, relative, run, step, text, twins

from nodes import (
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningSetArea,
    ConditioningSetMask,
    ConditioningSetTimestepRange,
)


def predicted(model, conditioning, x=None, *levels):
    return step(guider(model, conditioning), noise() if x is None else x, *levels)


@pytest.mark.core("ConditioningSetTimestepRange")
def test_prompts_that_change_over_the_steps(model):
    (first,) = run(ConditioningSetTimestepRange, conditioning=text(1), start=0.0, end=0.5)
    (second,) = run(ConditioningSetTimestepRange, conditioning=text(2), start=0.5, end=1.0)
    both = first + second
    sampling = model.get_model_object("model_sampling")
    early, late = sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.8)
    assert relative(predicted(model, both, None, early), predicted(model, text(1), None, early)) < 1e-5
    assert relative(predicted(model, both, None, late), predicted(model, text(2), None, late)) < 1e-5
    assert relative(predicted(model, text(1), None, late), predicted(model, text(2), None, late)) > 1e-3


@pytest.mark.core("ConditioningCombine")
def test_combined_prompts_are_averaged(model):
    (both,) = run(ConditioningCombine, conditioning_1=text(1), conditioning_2=text(2))
    wanted = (predicted(model, text(1)) + predicted(model, text(2))) / 2
    assert relative(predicted(model, both), wanted) < 1e-5


@pytest.mark.core("ConditioningAverage")
def test_averaged_prompts(model):
    (mixed,) = run(
        ConditioningAverage, conditioning_to=text(1), conditioning_from=text(2), conditioning_to_strength=0.3
    )
    direct = [[0.3 * text(1)[0][0] + 0.7 * text(2)[0][0], {}]]
    assert relative(predicted(model, mixed), predicted(model, direct)) < 1e-5


@pytest.mark.core("ConditioningConcat")
def test_concatenated_prompts(model):
    (joined,) = run(ConditioningConcat, conditioning_to=text(1), conditioning_from=text(2))
    direct = [[torch.cat((text(1)[0][0], text(2)[0][0]), dim=1), {}]]
    assert relative(predicted(model, joined), predicted(model, direct)) < 1e-5


@pytest.mark.core("ConditioningSetMask with a mask for each frame")
def test_masks_for_each_frame(model):
    mask, small = moving_mask(), moving_mask()[:, None, ::8, ::8]
    inputs = {"strength": 1.0, "set_cond_area": "default"}
    (inside,) = run(ConditioningSetMask, conditioning=text(1), mask=mask, **inputs)
    (outside,) = run(ConditioningSetMask, conditioning=text(2), mask=1 - mask, **inputs)
    wanted = small * predicted(model, text(1)) + (1 - small) * predicted(model, text(2))
    assert relative(predicted(model, inside + outside), wanted) < 1e-5


@pytest.mark.core("ConditioningSetMask with one mask for all frames")
def test_one_mask_for_all_frames(model):
    (left,) = run(SolidMask, value=1.0, width=64, height=64)
    left[:, :, 32:] = 0.0
    inputs = {"strength": 1.0, "set_cond_area": "default"}
    (inside,) = run(ConditioningSetMask, conditioning=text(1), mask=left, **inputs)
    (outside,) = run(ConditioningSetMask, conditioning=text(2), mask=1 - left, **inputs)
    got = predicted(model, inside + outside)
    assert relative(got[..., :4], predicted(model, text(1))[..., :4]) < 1e-5
    assert relative(got[..., 4:], predicted(model, text(2))[..., 4:]) < 1e-5


@pytest.mark.core("ConditioningSetArea")
def test_area_as_on_an_sd_unet(files):
    ours, theirs, x = twins(files / "area_twin.safetensors", 2)
    (area,) = run(ConditioningSetArea, conditioning=text(1), width=32, height=64, x=32, y=0, strength=0.8)
    both = area + text(2)
    got, wanted = (predicted(model, both, x) for model in (ours, theirs))
    # The area's frame statistics differ from the frame's: SD normalises each frame, LaVie the clip; here they agree.
    assert relative(got, wanted) < 1e-2 < relative(got, predicted(ours, text(2), x))


# --- prompt travel ----------------------------------------------------------------------------------------------------


@pytest.mark.core("a text for each frame")
def test_texts_for_each_frame_reach_their_frame(model):
    """Without temporal layers' help: only the frames whose text changes differ in the cross-attention's input."""
    each = random(FRAMES, 7, 16, seed=1)
    shared = each[:1].expand(FRAMES, -1, -1).clone()
    assert relative(predicted(model, [[shared, {}]]), predicted(model, [[each[:1], {}]])) < 1e-5
    seen = []

    def record(n, context, value, options):
        seen.append(context)
        return n, context, value

    patched = model.clone()
    patched.set_model_attn2_patch(record)
    step(guider(patched, [[each, {}]], text(2), 2.0), noise())
    # A text for all frames stays one; it and a text for each frame differ in length and go through one after the other.
    assert len(seen) >= 2 and any(torch.equal(context, each) for context in seen)
    negative = text(2)[0][0]
    assert any(torch.equal(context, negative.expand(len(context), -1, -1)) for context in seen)


def test_texts_for_another_number_of_frames_are_refused(model):
    with pytest.raises(ValueError, match=f"prompts are for 4 frames, but the latent has {FRAMES}"):
        predicted(model, [[random(4, 7, 16, seed=1), {}]])


def test_joined_frame_prompts_are_sampled(model):
    """Core's Concat of a text per frame and one of the whole clip, in an area: as the tensor made by hand."""
    each, whole = text(1, frames=FRAMES)[0][0], text(2)[0][0]
    (joined,) = run(ConditioningConcat, conditioning_to=[[per_frame(each), {}]], conditioning_from=[[whole, {}]])
    by_hand = [[torch.cat((each, whole.expand(FRAMES, -1, -1)), 1), {}]]
    assert relative(predicted(model, joined), predicted(model, by_hand)) < 1e-6
    area = dict(width=64, height=64, x=0, y=0, strength=1.0)
    areas = [run(ConditioningSetArea, conditioning=texts, **area)[0] for texts in (joined, by_hand)]
    assert relative(*(predicted(model, texts) for texts in areas)) < 1e-6


def test_blend_is_linear_between_keyframes():
    weights = blend_weights([2, 4], 6)
    assert weights.tolist() == [[1, 0], [1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]]
    short, long = random(1, 2, 3, seed=1), random(1, 4, 3, seed=2)
    mixed = blend([short, long], weights)
    assert mixed.shape == (6, 4, 3)
    torch.testing.assert_close(mixed[3], (torch.cat((short, short), 1) + long)[0] / 2)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("a fish", "line 1 .*'frame: prompt'"),
        ("0: a fish\n16: a car", "line 2 .*frame 16.*0 to 15"),
        ("0: a fish\n\n0: a car", "line 3 .*second time"),
        ("-1: a fish", "line 1 .*frame -1"),
        (" \n", "no line"),
    ],
)
def test_schedules_that_cannot_be_read(schedule, said):
    with pytest.raises(ValueError, match=said):
        parse_schedule(schedule, 16)
    assert isinstance(LaVieFramePrompts.validate_inputs(schedule=schedule, frames=16), str)


def test_schedule_lines():
    assert parse_schedule(" 8 : a car: red\n0:a fish\n", 9) == [(0, "a fish"), (8, "a car: red")]


def test_frame_prompts_node(clip):
    """Keyframes get exactly their prompt's encoding, frames between them the blend."""
    schedule = "0: a red fish moving right\n4: a blue fish moving right"
    ((mixed, values),) = run(LaVieFramePrompts, clip=clip, schedule=schedule, frames=8)[0]
    red, blue = (
        clip.encode_from_tokens_scheduled(clip.tokenize(f"a {color} fish moving right"))[0][0]
        for color in ("red", "blue")
    )
    assert mixed.shape == (8, *red.shape[1:])
    for frame, wanted in ((0, red), (1, 0.75 * red + 0.25 * blue), (4, blue), (7, blue)):
        torch.testing.assert_close(mixed[frame : frame + 1], wanted, atol=1e-5, rtol=1e-4)
    assert "pooled_output" in values
