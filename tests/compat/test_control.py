"""ControlNet, T2I adapter, IP-Adapter.

Control files of SD 1.x's own layout and width, with random weights, loaded by core's loader; the network has one level.
"""

import comfy.cldm.cldm
import comfy.ops
import comfy.t2i_adapter.adapter
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfyui_lavie.tests.compat.kit import guider, noise, random, relative, run, step, text
from safetensors.torch import save_file

from nodes import ControlNetApply, ControlNetApplyAdvanced, ControlNetLoader

FRAMES = 4


@pytest.fixture(scope="module")
def control_files(files):
    """{kind: file name} of a ControlNet and a T2I adapter."""
    torch.manual_seed(3)
    net = comfy.cldm.cldm.ControlNet(
        image_size=32, in_channels=4, model_channels=320, hint_channels=3, num_res_blocks=[2], channel_mult=[1],
        transformer_depth=[1, 1], transformer_depth_middle=1, context_dim=768, num_heads=8,
        use_spatial_transformer=True, legacy=False, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    adapter = comfy.t2i_adapter.adapter.Adapter(
        channels=[320, 640, 1280, 1280], nums_rb=2, cin=192, ksize=1, sk=True, use_conv=False, xl=False
    )
    for name, module in (("net", net), ("adapter", adapter)):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.05 if parameter.ndim > 1 else 0.01)
        save_file(module.state_dict(), files / f"{name}.safetensors")
    return {"ControlNet": "net.safetensors", "T2I adapter": "adapter.safetensors"}


@pytest.fixture(params=["ControlNet", "T2I adapter"])
def kind(request):
    return request.param


@pytest.fixture
def control(control_files, kind):
    (loaded,) = run(ControlNetLoader, control_net_name=control_files[kind])
    assert type(loaded).__name__ == kind.replace(" a", "A").replace(" ", "")
    return loaded


def hints(frames: int = FRAMES) -> torch.Tensor:
    """(F, 64, 64, 3) images, each of its own."""
    return random(frames, 64, 64, 3, seed=9).sigmoid()


def controlled(control, images, strength=1.0, start=0.0, end=1.0):
    """(positive, negative) as ControlNetApplyAdvanced gives them."""
    return run(
        ControlNetApplyAdvanced, positive=text(1, 768), negative=text(2, 768), control_net=control, image=images,
        strength=strength, start_percent=start, end_percent=end,
    )  # fmt: skip


def predicted(model, conds, x=None, *levels):
    return step(guider(model, *conds, 2.0), noise(FRAMES) if x is None else x, *levels)


def plain(model, *levels):
    return predicted(model, (text(1, 768), text(2, 768)), None, *levels)


@pytest.mark.core("ControlNetApplyAdvanced: a hint for each frame, strength (ControlNet, T2I adapter)")
def test_hints_reach_their_frame(wide, control):
    """In a run of frames that do not see each other, each frame is what it is with its own hint alone."""
    images, x = hints(), noise(FRAMES)
    together = predicted(wide, controlled(control, images), x)
    assert relative(together, plain(wide)) > 1e-3
    swapped = predicted(wide, controlled(control, images.flip(0)), x.flip(0))
    assert relative(swapped, together) > 1e-3
    half = predicted(wide, controlled(control, images, strength=0.5), x)
    assert 0 < relative(half, plain(wide)) < relative(together, plain(wide))
    assert relative(predicted(wide, controlled(control, images, strength=0.0), x), plain(wide)) < 1e-6


@pytest.mark.core("ControlNetApplyAdvanced: one hint for all frames")
def test_one_hint_is_that_hint_for_every_frame(wide, control):
    image = hints(1)
    one = predicted(wide, controlled(control, image))
    assert relative(one, predicted(wide, controlled(control, image.repeat(FRAMES, 1, 1, 1)))) < 1e-5


@pytest.mark.core("ControlNetApplyAdvanced: start and end")
def test_start_and_end(wide, control):
    sampling = wide.get_model_object("model_sampling")
    inside, outside = sampling.percent_to_sigma(0.5), sampling.percent_to_sigma(0.9)
    ranged, always = (controlled(control, hints(), start=s, end=e) for s, e in ((0.3, 0.7), (0.0, 1.0)))
    assert relative(predicted(wide, ranged, None, inside), predicted(wide, always, None, inside)) < 1e-6
    assert relative(predicted(wide, ranged, None, outside), plain(wide, outside)) < 1e-6


@pytest.mark.core("ControlNetApply (older node)")
def test_older_apply_node(wide, control_files):
    (loaded,) = run(ControlNetLoader, control_net_name=control_files["ControlNet"])
    (positive,) = run(ControlNetApply, conditioning=text(1, 768), control_net=loaded, image=hints(), strength=1.0)
    got = predicted(wide, (positive, text(2, 768)))
    assert relative(got, predicted(wide, controlled(loaded, hints()))) < 1e-6


def windowed(model, schedule="batched", length=2, overlap=0, causal=False):
    return run(
        ContextWindowsManualNode, model=model, context_length=length, context_overlap=overlap,
        context_schedule=schedule, context_stride=1, closed_loop=False, fuse_method="flat", dim=0, freenoise=False,
        causal_window_fix=causal,
    )[0]  # fmt: skip


@pytest.mark.core("hints inside context windows: aligned to their frames")
def test_hints_follow_the_windows(wide, control):
    """Windows that share no frame are clips of their own: each must get the hints of its frames."""
    images, x = hints(), noise(FRAMES)
    got = predicted(windowed(wide), controlled(control, images), x)
    parts = [predicted(wide, controlled(control, images[s : s + 2]), x[s : s + 2]) for s in (0, 2)]
    assert relative(got, torch.cat(parts)) < 1e-5
    first = [predicted(wide, controlled(control, images[:2]), x[s : s + 2]) for s in (0, 2)]
    assert relative(got, torch.cat(first)) > 1e-4, "the second window has hints of its own"
    again = predicted(wide, controlled(control, images), x)
    assert relative(again, predicted(wide, controlled(control, images), x)) < 1e-6, "hints are whole again"


@pytest.mark.core("hints inside context windows with causal_window_fix")
def test_hints_follow_windows_with_an_anchor_frame(wide, control):
    images, x = hints(), noise(FRAMES)
    got = predicted(windowed(wide, causal=True), controlled(control, images), x)
    second = predicted(wide, controlled(control, images[1:4]), x[1:4])[1:]
    assert relative(got[2:], second) < 1e-5


@pytest.mark.core("IP-Adapter's way: replaced cross-attention, an image for each frame")
def test_replaced_cross_attention_sees_its_frames(wide):
    """As IP-Adapter does: attention to the text plus attention to image tokens, one set of tokens per frame."""
    tokens = random(FRAMES, 4, 768, seed=6)
    to_k, to_v = random(320, 768, seed=7) / 27, random(320, 768, seed=8) / 27

    def replace(q, k, v, options):
        out = optimized_attention(q, k, v, options["n_heads"])
        conditions = options["cond_or_uncond"]
        images = torch.cat([tokens if c == 0 else torch.zeros_like(tokens) for c in conditions]).to(q)
        return out + 0.8 * optimized_attention(q, images @ to_k.T, images @ to_v.T, options["n_heads"])

    patched = wide.clone()
    for block in (("input", 1), ("input", 2), ("middle", 0), ("output", 0), ("output", 1), ("output", 2)):
        patched.set_model_attn2_replace(replace, *block)
    seen = predicted(patched, (text(1, 768), text(2, 768)))
    assert relative(seen, plain(wide)) > 1e-3
    tokens = tokens[:1].expand(FRAMES, -1, -1)
    same = predicted(patched, (text(1, 768), text(2, 768)))
    assert relative(same, seen) > 1e-4


@pytest.mark.core("IP-Adapter's way: replaced self-attention")
def test_replaced_self_attention(wide):
    """Replaced by what it is, nothing changes; replaced by its values, all frames do."""

    def itself(q, k, v, options):
        return optimized_attention(q, k, v, options["n_heads"])

    same, other = wide.clone(), wide.clone()
    same.set_model_attn1_replace(itself, "middle", 0)
    other.set_model_attn1_replace(lambda q, k, v, options: v, "middle", 0)
    reference = plain(wide)
    assert relative(predicted(same, (text(1, 768), text(2, 768))), reference) < 1e-5
    assert relative(predicted(other, (text(1, 768), text(2, 768))), reference) > 1e-4
