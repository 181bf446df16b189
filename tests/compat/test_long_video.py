"""Long video.

Context windows, LaVie Extend Video and the first-frame-conditioned base, on tiny models: who sees which frames, and
that what is held stays.
"""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfyui_lavie.lavie_models.comfyui.extend import PlannedClip, plan_clips
from comfyui_lavie.nodes.context_windows import LaVieContextWindows
from comfyui_lavie.nodes.extend_video import LaVieExtendVideo
from comfyui_lavie.tests.compat.kit import (
    EULER,
    SCALE,
    extended,
    guider,
    noise,
    random,
    relative,
    run,
    sample,
    sigmas,
    step,
    text,
    windows,
)

LONG = 10


# --- context windows --------------------------------------------------------------------------------------------------


@pytest.mark.core("ContextWindowsManual", note="With dim 0; LaVieContextWindows has the right defaults.")
def test_windows_without_overlap_are_clips_of_their_own(model):
    x = noise(8)
    got = step(guider(windows(model), text(1), text(2), 2.0), x)
    parts = [step(guider(model, text(1), text(2), 2.0), x[s : s + 4]) for s in (0, 4)]
    assert relative(got, torch.cat(parts)) < 1e-5


@pytest.mark.core("ContextWindowsManual: all schedules and fuse methods")
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform"])
@pytest.mark.parametrize("fuse", ["pyramid", "flat", "relative", "overlap-linear"])
def test_schedules_and_fuse_methods(model, schedule, fuse):
    """The network sees as many frames as a window has, never more."""
    seen = []
    model = windows(model, 6, 2, schedule, fuse)
    model.add_wrapper("diffusion_model", lambda go, x, *a, **k: seen.append(len(x)) or go(x, *a, **k))
    got = step(guider(model, text(1)), noise(LONG))
    assert got.isfinite().all() and set(seen) == {6} and len(seen) >= 2


@pytest.mark.core(
    "ContextWindowsManual with causal_window_fix (core's default)", note="Windows get one frame more than asked for."
)
def test_causal_window_fix_adds_a_frame(model):
    x = noise(8)
    got = step(guider(windows(model, causal=True), text(1)), x)
    second = step(guider(model, text(1)), x[3:8])[1:]
    assert relative(got[4:], second) < 1e-5


@pytest.mark.core(
    "ContextWindowsManual with another dim", works=False, note="Refused: LaVie's frames lie on dimension 0."
)
def test_windows_over_another_dimension_are_refused(model):
    with pytest.raises(ValueError, match="set dim to 0"):
        step(guider(windows(model, dim=2), text(1)), noise(8))


@pytest.mark.core("ContextWindowsManual with FreeNoise")
def test_freenoise_repeats_the_noise_of_the_first_window(model):
    seen = []
    model = windows(model, 4, 2, "standard_static", freenoise=True)
    steps = sigmas(model, 1)

    def first_input(args):
        seen.append(args["input"])
        return args["denoised"]

    model.set_model_sampler_post_cfg_function(first_input)
    sample(guider(model, text(1)), torch.zeros(8, 4, 8, 8), steps)
    frames = [frame for frame in seen[0]]
    assert all(any(torch.equal(frame, known) for known in frames[:4]) for frame in frames[4:])


@pytest.mark.core("texts, masks and first frames inside context windows")
def test_conditions_of_each_frame_follow_the_windows(model):
    x, texts, mask = noise(8), random(8, 7, 16, seed=1), random(8, 8, 8, seed=2).sigmoid()
    whole = [[texts, {"mask": mask, "set_area_to_bounds": False}], [text(2)[0][0], {"mask": 1 - mask}]]
    got = step(guider(windows(model), whole), x)
    parts = []
    for s in (0, 4):
        part = slice(s, s + 4)
        conds = [[texts[part], {"mask": mask[part]}], [text(2)[0][0], {"mask": 1 - mask[part]}]]
        parts.append(step(guider(model, conds), x[part]))
    assert relative(got, torch.cat(parts)) < 1e-5


@pytest.mark.core(
    "EasyCache inside context windows",
    works=False,
    note="Refused: its one cache would mix the windows. LazyCache works.",
)
def test_easycache_in_windows_is_refused(model):
    inputs = {"reuse_threshold": 0.5, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    (cached,) = run(EasyCacheNode, model=windows(model), **inputs)
    with pytest.raises(ValueError, match="use LazyCache"):
        sample(guider(cached, text(1)), torch.zeros(8, 4, 8, 8), sigmas(model, 4))


@pytest.mark.core("LazyCache inside context windows")
def test_lazycache_in_windows_skips_whole_steps(model):
    seen = []
    inputs = {"reuse_threshold": 3.0, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    (cached,) = run(LazyCacheNode, model=windows(model), **inputs)
    cached.add_wrapper("diffusion_model", lambda go, x, *a, **k: seen.append(len(x)) or go(x, *a, **k))
    out = sample(guider(cached, text(1)), torch.zeros(8, 4, 8, 8), sigmas(model, 8))
    assert out.isfinite().all() and len(seen) % 2 == 0 and len(seen) < 16


def test_preset_windows_equal_the_core_node(model):
    (preset,) = run(LaVieContextWindows, model=model, length=4, overlap=2, fuse_method="pyramid", freenoise=False)
    x = noise(8)
    core = windows(model, 4, 2, "standard_static", "pyramid")
    assert torch.equal(step(guider(preset, text(1)), x), step(guider(core, text(1)), x))


# --- LaVie Extend Video -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "frames", "length", "overlap", "planned"),
    [
        (16, 40, 16, 4, [PlannedClip(12, 16, 28), PlannedClip(24, 28, 40)]),
        (16, 30, 16, 4, [PlannedClip(12, 16, 28), PlannedClip(14, 28, 30)]),
        (4, 10, 16, 4, [PlannedClip(0, 4, 10)]),
        (1, 5, 3, 1, [PlannedClip(0, 1, 3), PlannedClip(2, 3, 5)]),
    ],
)
def test_plan(given, frames, length, overlap, planned):
    assert plan_clips(given, frames, length, overlap) == planned


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((16, 40, 16, 16), "overlap must be 1 to 15"),
        ((3, 40, 16, 4), "has 3 frames"),
        ((16, 16, 16, 4), "set total_frames to"),
    ],
)
def test_numbers_that_do_not_fit(numbers, said):
    with pytest.raises(ValueError, match=said):
        plan_clips(*numbers)


def by_hand(model, given, conds, frames, steps):
    """One clip sampled with a mask over its ``given`` frames, from the last of them."""
    held, length = len(given), frames.stop - frames.start
    latent = torch.cat((given, given[-1:].expand(length - held, -1, -1, -1)))
    mask = torch.ones(length, 1, 8, 8)
    mask[:held] = 0
    noisy = comfy.sample.prepare_noise(latent, 3, list(range(frames.start, frames.stop)))
    made = guider(model, conds, text(2), 2.0)
    return made.sample(noisy, latent, EULER, steps, denoise_mask=mask, seed=0, disable_pbar=True)[held:]


@pytest.mark.core("LaVieExtendVideo, with any GUIDER, SAMPLER, SIGMAS and NOISE")
@pytest.mark.parametrize(("denoise", "calls"), [(1.0, 4), (0.8, 3), (0.01, 1)])
def test_extension_is_masked_sampling_clip_by_clip(model, denoise, calls):
    """Equal to sampling each clip by hand, in the last ``calls`` of four steps."""
    video = random(4, 4, 8, 8, seed=1) / SCALE
    got = extended(guider(model, text(1), text(2), 2.0), video, LONG, steps=4, denoise=denoise)
    assert got.shape[0] == LONG and torch.equal(got[:4], video)
    for start, new, stop in ((2, 4, 8), (4, 8, 10)):
        wanted = by_hand(model, got[start:new], text(1), slice(start, stop), sigmas(model, 4)[-calls - 1 :])
        assert relative(got[new:stop], wanted) < 1e-4


def test_prompts_and_hints_of_each_frame_follow_the_clips(model):
    """A prompt for each frame of the long video: each clip is sampled with the prompts of its frames."""
    video, texts = random(4, 4, 8, 8, seed=1) / SCALE, random(LONG, 7, 16, seed=2)
    got = extended(guider(model, [[texts, {}]], text(2), 2.0), video, LONG)
    wanted = by_hand(model, video[2:], [[texts[2:8], {}]], slice(2, 8), sigmas(model, 3))
    assert relative(got[4:8], wanted) < 1e-4


@pytest.mark.parametrize("count", [2, 4, 6, LONG - 1, LONG + 1])
@pytest.mark.parametrize("kind", ["prompts", "masks"])
def test_other_numbers_are_refused_before_a_step(model, kind, count):
    """Extended, in context windows and plain; as many as a clip or a window has are no better than others."""
    calls = []
    model.set_model_unet_function_wrapper(lambda go, given: calls.append(1))
    cond = [[random(count, 7, 16, seed=2), {}]] if kind == "prompts" else text(1, mask=torch.ones(count, 64, 64))
    video = random(4, 4, 8, 8, seed=1) / SCALE
    with pytest.raises(ValueError, match=f"{kind} .*are for {count} frames, but total_frames is {LONG};.* {LONG}"):
        extended(guider(model, cond, text(2), 2.0), video, LONG)
    for sampled in (model, windows(model)):
        with pytest.raises(ValueError, match=f"{kind} .*are for {count} frames, but the latent has {LONG} frames"):
            step(guider(sampled, cond, text(2), 2.0), noise(LONG))
    assert not calls


def test_a_workflow_saved_without_denoise_gets_the_default(model):
    made, video = guider(model, text(1)), random(4, 4, 8, 8, seed=1) / SCALE
    inputs = {"noise": Noise_RandomNoise(3), "guider": made, "sampler": EULER, "sigmas": sigmas(model, 4)}
    numbers = {"latent": {"samples": video}, "total_frames": 8, "clip_frames": 6, "overlap": 2}
    (got,) = run(LaVieExtendVideo, **inputs, **numbers)
    assert torch.equal(got["samples"], extended(made, video, 8, steps=4, denoise=0.8))


def test_progress_counts_all_clips_and_an_interruption_keeps_what_is_done(model):
    """Two clips of three steps: progress to 6; interrupted in the second, the first stays."""
    seen, calls = [], []

    def hook(value, total, preview, **kwargs):
        seen.append((value, total))

    def denoise(run, arguments):
        calls.append(arguments["timestep"])
        if interrupt and len(calls) > 4:
            raise comfy.model_management.InterruptProcessingException()  # as the check before each call does
        return run(arguments["input"], arguments["timestep"], **arguments["c"])

    patched = model.clone()
    patched.set_model_unet_function_wrapper(denoise)
    made, video = guider(patched, text(1)), random(4, 4, 8, 8, seed=1) / SCALE
    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        interrupt = False
        whole = extended(made, video, LONG)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    values = [value for value, _ in seen]  # ComfyUI leaves out those that follow one another too fast
    assert values == sorted(values) and values[0] == 1 and values[-1] == 6 and {total for _, total in seen} == {6}
    assert len(calls) == 6
    calls.clear()
    interrupt = True
    part = extended(made, video, LONG)
    assert part.shape[0] == 8 and torch.equal(part, whole[:8])


def test_interruption_before_the_first_clip_is_an_interruption(model):
    comfy.model_management.interrupt_current_processing()
    made = guider(windows(model), text(1))  # windows look at the interruption flag
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            extended(made, random(4, 4, 8, 8, seed=1), LONG, clip_frames=8)
    finally:
        comfy.model_management.interrupt_current_processing(False)


@pytest.mark.parametrize("latent", [torch.zeros(4, 4, 8, 8), torch.ones(1, 4, 4, 8, 8)])
def test_latents_that_are_no_video(model, latent):
    with pytest.raises(ValueError, match="latent of (a video|.frames)"):
        extended(guider(model, text(1)), latent, LONG)
