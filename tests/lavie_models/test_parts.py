"""Work by parts: the same numbers as on the whole, in less memory."""

import copy

import pytest
import torch
from comfyui_lavie.bench.measure import peak_activations
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig, parts, unet
from comfyui_lavie.lavie_models.clips import ClipLayout
from comfyui_lavie.lavie_models.resnet import clip_group_norm

SIZES = {"block_channels": (32, 64), "num_heads": 1, "layers_per_block": 1, "context_dim": 16}
CONFIGS = {
    "base": UNetConfig.base(**SIZES, attention_levels=(True, True)),
    "interpolation": UNetConfig.interpolation(**SIZES, attention_levels=(True, True)),
    "super_resolution": UNetConfig.super_resolution(**SIZES, attention_levels=(False, True)),
}
VIDEOS, FRAMES = 2, 3


@pytest.fixture(scope="module", params=CONFIGS)
def network(request):
    """A network whose every layer does something, and the arguments of a forward of two clips of odd size."""
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    made = LaVieUNet(config).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.1)
    x, text = torch.randn(VIDEOS * FRAMES, config.in_channels, 10, 12), torch.randn(VIDEOS, 5, 16)
    level = torch.tensor([20]).expand(VIDEOS) if config.architecture.noise_levels else None
    return made, {"x": x, "timesteps": torch.tensor([7.5, 300.0]), "context": text, "noise_level": level}


def run(network, monkeypatch, values: int, again: bool = False, **changed):
    made, given = network
    monkeypatch.setattr(parts, "CHUNK_VALUES_CPU", values)
    monkeypatch.setattr(unet, "LARGE", 0)
    options = {unet.COMPUTE_AGAIN: again}
    with torch.no_grad():
        return made(**{**given, **changed}, num_frames=FRAMES, transformer_options=options)


@pytest.mark.parametrize("values", [2**10, 2**12])
@pytest.mark.parametrize("again", [False, True])
def test_parts_make_the_whole(network, monkeypatch, values, again):
    """Rows of one frame, and a frame or two, at a time; with one text per clip and with one per frame."""
    wanted = run(network, monkeypatch, 2**30)
    per_frame = network[1]["context"].repeat_interleave(FRAMES, dim=0)
    for changed in ({}, {"context": per_frame}):
        got = run(network, monkeypatch, values, again, **changed)
        assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_gradients_see_the_whole(network, monkeypatch):
    """With gradients nothing is written in place, whatever its size."""
    made, given = network
    wanted = run(network, monkeypatch, 2**30)
    monkeypatch.setattr(parts, "CHUNK_VALUES_CPU", 2**10)
    got = made(**given, num_frames=FRAMES)
    got.sum().backward()
    assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert all(parameter.grad is not None for parameter in made.parameters())


@torch.no_grad()
def test_statistics_of_parts_are_those_of_the_clip():
    """Of values far from zero, where sums of squares would lose the variance; torch's GroupNorm in float64 is right."""
    torch.manual_seed(0)
    clips, norm = ClipLayout(2, 3), torch.nn.GroupNorm(32, 64, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(6, 64, 5, 7) + 100
    wanted = torch.nn.functional.silu(clip_group_norm(copy.deepcopy(norm).double(), x.double(), clips))
    seen = parts.ClipNorm(norm, clips)
    for video in (0, 1):
        for rows in (slice(0, 2), slice(2, 5)):
            frames = slice(3 * video, 3 * video + 3)
            seen.see(video, x[frames, :40, rows], x[frames, 40:, rows])
    for video in (0, 1):
        frame = slice(3 * video + 1, 3 * video + 2)
        assert (seen(video, x[frame]) - wanted[frame]).abs().max() < 1e-4


def test_less_is_held_at_once(network, monkeypatch):
    made, given = network
    larger = {**given, "x": torch.randn(VIDEOS * FRAMES, made.config.in_channels, 32, 32)}
    whole, by_parts = (
        peak_activations(lambda values=values: run((made, larger), monkeypatch, values, True), "cpu")
        for values in (2**30, 2**14)
    )
    assert by_parts < 0.7 * whole
