"""LaVieUNet beyond the golden outputs: joint image-video mathematics, input errors, ComfyUI's patch contract."""

import re

import pytest
import torch
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig

SMALL = UNetConfig.base(
    block_channels=(32, 64), attention_levels=(True, True), num_heads=1, layers_per_block=1, context_dim=16
)
FRAMES, TOKENS = 4, 5


@pytest.fixture
def unet():
    torch.manual_seed(0)
    unet = LaVieUNet(SMALL)
    for name, parameter in unet.named_parameters():
        if "attn_temp.to_out" in name:  # zero at the start, which would hide mistakes in temporal attention
            torch.nn.init.normal_(parameter, std=0.2)
    return unet


def inputs(rows=2, images=0, seed=1):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows * (FRAMES + images), 4, 8, 8, generator=rng)
    text = torch.randn(rows * (1 + images), TOKENS, SMALL.context_dim, generator=rng)
    return x, torch.tensor([900, 20][:rows]), text


def test_images_and_video_do_not_influence_each_other(unet):
    x, t, text = inputs(images=2)
    joint = unet(x, t, text, num_frames=FRAMES, num_images=2).unflatten(0, (2, -1))
    x, text = x.unflatten(0, (2, -1)), text.unflatten(0, (2, -1))
    video = unet(x[:, :FRAMES].flatten(0, 1), t, text[:, 0], num_frames=FRAMES).unflatten(0, (2, -1))
    torch.testing.assert_close(joint[:, :FRAMES], video, atol=1e-5, rtol=0)

    x[:, :FRAMES] = 0
    other_video = unet(x.flatten(0, 1), t, text.flatten(0, 1), num_frames=FRAMES, num_images=2).unflatten(0, (2, -1))
    torch.testing.assert_close(other_video[:, FRAMES:], joint[:, FRAMES:], atol=1e-5, rtol=0)


def test_image_gradients_do_not_reach_temporal_parameters(unet):
    x, t, text = inputs(images=2)
    out = unet(x, t, text, num_frames=FRAMES, num_images=2).unflatten(0, (2, -1))
    out[:, FRAMES:].square().mean().backward()
    temporal = {n: p.grad for n, p in unet.named_parameters() if "_temp" in n}
    assert len(temporal) == 7 * 8  # q, k, v, out with bias, position bias, norm with bias in seven transformers
    assert all(grad is None or not grad.any() for grad in temporal.values())
    assert unet.middle_block[1].transformer_blocks[0].attn1.to_q.weight.grad.any()


def test_a_fresh_model_is_its_image_model_frame_by_frame():
    unet = LaVieUNet(SMALL)
    x, t, text = inputs(rows=1)
    still = x[:1].expand(FRAMES, -1, -1, -1)
    clip = unet(still, t, text, num_frames=FRAMES)
    image = unet(still[:1], t, text, num_frames=1)
    torch.testing.assert_close(clip, image.expand_as(clip), atol=1e-5, rtol=0)


def test_one_text_per_clip_equals_one_per_frame(unet):
    x, t, text = inputs()
    repeated = text.repeat_interleave(FRAMES, dim=0)
    torch.testing.assert_close(
        unet(x, t, text, num_frames=FRAMES), unet(x, t, repeated, num_frames=FRAMES), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(8, 3, 8, 8)}, "expects latents"),
        ({"x": torch.zeros(2, 4, 4, 8, 8)}, "frames belong on the batch axis"),
        ({"num_frames": 3}, "does not divide"),
        ({"num_frames": 0}, "does not divide"),
        ({"timesteps": torch.zeros(3)}, "timesteps must be"),
        ({"context": torch.zeros(3, 5, 16)}, "context must be"),
        ({"context": None}, "context must be"),
        ({"context": torch.zeros(2, 5, 24)}, "text encoder belongs to another model"),
    ],
)
def test_wrong_inputs_are_named(unet, change, message):
    x, t, text = inputs()
    arguments = {"x": x, "timesteps": t, "context": text, "num_frames": FRAMES, **change}
    with pytest.raises(ValueError, match=message):
        unet(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "upscale"}, "stage must be"),
        ({"block_channels": (33, 64)}, "multiples of 32"),
        ({"num_heads": 2}, "head size"),
        ({"attention_levels": (True,)}, "one per level"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**{**SMALL.to_dict(), **change})


def test_configuration_survives_its_dictionary():
    assert UNetConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(ValueError, match="colour"):
        UNetConfig.from_dict({**SMALL.to_dict(), "colour": 1})


def test_patches_see_their_blocks_and_change_the_output(unet):
    """Every patch of the contract is called where ComfyUI's own UNet calls it, with the block it stands in."""
    x, t, text = inputs()
    seen = {}

    def note(name, options):
        seen.setdefault(name, set()).add(tuple(options["block"]) if "block" in options else None)

    def hidden(name):
        return lambda h, options: note(name, options) or h

    def attention(name):
        return lambda n, context, value, options: note(name, options) or (n, context, value)

    patches = {
        "input_block_patch": [hidden("input_block_patch")],
        "input_block_patch_after_skip": [hidden("input_block_patch_after_skip")],
        "middle_block_after_patch": [lambda a: note("middle_block_after_patch", a["transformer_options"]) or a],
        "output_block_patch": [lambda h, skip, options: note("output_block_patch", options) or (h, skip)],
        "emb_patch": [lambda emb, channels, options: note("emb_patch", options) or emb],
        "middle_patch": [hidden("middle_patch")],
        "attn1_patch": [attention("attn1_patch")],
        "attn2_patch": [attention("attn2_patch")],
        "attn1_output_patch": [hidden("attn1_output_patch")],
        "attn2_output_patch": [hidden("attn2_output_patch")],
    }
    plain = unet(x, t, text, num_frames=FRAMES)
    patched = unet(x, t, text, num_frames=FRAMES, transformer_options={"patches": patches})
    torch.testing.assert_close(patched, plain, atol=1e-5, rtol=0)
    inputs_seen = {("input", i) for i in range(4)}
    outputs_seen = {("output", i) for i in range(4)}
    attention_seen = {("input", 1), ("input", 3), ("middle", 0)} | outputs_seen
    assert seen["input_block_patch"] == seen["input_block_patch_after_skip"] == inputs_seen
    assert seen["output_block_patch"] == outputs_seen
    assert seen["middle_block_after_patch"] == {("middle", 0)}
    assert seen["emb_patch"] == {None}
    for name in ("middle_patch", "attn1_patch", "attn2_patch", "attn1_output_patch", "attn2_output_patch"):
        assert seen[name] == attention_seen

    for name, patch in {
        "attn1_output_patch": lambda n, options: n * 0,
        "attn2_patch": lambda n, context, value, options: (n, context * 0, value * 0),
        "input_block_patch": lambda h, options: h * 0.5,
        "output_block_patch": lambda h, skip, options: (h, skip * 0),
    }.items():
        changed = unet(x, t, text, num_frames=FRAMES, transformer_options={"patches": {name: [patch]}})
        assert (changed - plain).abs().max() > 1e-3, name


@pytest.mark.parametrize("key", [("middle", 0), ("middle", 0, 0)])
@pytest.mark.parametrize("name", ["attn1", "attn2"])
def test_attention_replacement(unet, name, key):
    x, t, text = inputs()
    calls = []

    def replacement(q, k, v, options):
        calls.append((q.shape, k.shape, options["n_heads"], options["dim_head"]))
        return torch.zeros_like(q)

    plain = unet(x, t, text, num_frames=FRAMES)
    options = {"patches_replace": {name: {key: replacement}}}
    changed = unet(x, t, text, num_frames=FRAMES, transformer_options=options)
    keys = 16 if name == "attn1" else TOKENS
    assert calls == [((8, 16, 64), (8, keys, 64), 1, 64)]
    assert (changed - plain).abs().max() > 1e-4


def test_control_residuals_are_added_in_order(unet):
    x, t, text = inputs()
    shapes = [(32, 8), (32, 8), (32, 4), (64, 4)]
    zeros = {"input": [torch.zeros(8, c, s, s) for c, s in reversed(shapes)], "middle": [torch.zeros(8, 64, 4, 4)]}
    plain = unet(x, t, text, num_frames=FRAMES)
    torch.testing.assert_close(unet(x, t, text, num_frames=FRAMES, control=zeros), plain, atol=1e-5, rtol=0)
    assert zeros["input"] == [] and zeros["middle"] == []
    one = {"output": [torch.ones(8, c, s, s) for c, s in shapes]}
    assert (unet(x, t, text, num_frames=FRAMES, control=one) - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match="ControlNet residual"):
        unet(x, t, text, num_frames=FRAMES, control={"middle": [torch.zeros(8, 64, 9, 9)]})


def test_positions_are_written_where_they_differ_from_the_stage():
    usual, other, rotary = (UNetConfig.base(positions=value) for value in (True, False, "rotary"))
    assert "positions" not in usual.to_dict() and usual == UNetConfig.base()
    assert other.to_dict()["positions"] is False and UNetConfig.from_dict(other.to_dict()) == other
    assert UNetConfig.from_dict(rotary.to_dict()) == rotary != usual and not rotary.architecture.position_bias
    assert UNetConfig.interpolation(positions=False).positions is None
    for wrong in ("no", 2, [True]):
        with pytest.raises(ValueError, match=f"positions must be .*, got {re.escape(repr(wrong))}"):
            UNetConfig.base(positions=wrong)
