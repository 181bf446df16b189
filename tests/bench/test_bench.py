"""The benchmark: its counts against counts by hand, its memory figures against known ones, its table."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from comfyui_lavie.bench import memory
from comfyui_lavie.bench.__main__ import main
from comfyui_lavie.bench.forward import Result, table
from comfyui_lavie.bench.load import make_video
from comfyui_lavie.bench.measure import PeakMemory, Subject, count_flops, peak_activations
from comfyui_lavie.bench.subjects import SUBJECTS, Case, published_forward
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig, parts
from comfyui_lavie.lavie_models.attention import sdpa_attention
from comfyui_lavie.lavie_models.published import PUBLISHED

TINY = Case(frames=2, size=8, width_divisor=10)
MB = 10**6


@torch.no_grad()
def test_flops_agree_with_a_count_by_hand():
    by_hand = []

    def count_layer(layer, _inputs, output):
        by_hand.append(2 * output.numel() * layer.weight[0].numel())  # a product per weight that makes one output

    def count_attention(q, k, v, heads, **kwargs):
        by_hand.append(4 * q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2])  # scores, then weighted values
        return sdpa_attention(q, k, v, heads, **kwargs)

    unet = LaVieUNet(TINY.config, attention=count_attention)
    for layer in unet.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.register_forward_hook(count_layer)
    x, text = torch.randn(2, 4, 8, 8), torch.randn(1, 77, 768)
    counted = count_flops(lambda: unet(x, torch.tensor([500]), text, num_frames=2))
    assert counted == sum(by_hand)


@torch.no_grad()
def test_peak_activations_are_the_most_held_at_once():
    x = torch.ones(MB // 4)
    assert peak_activations(lambda: x + x, "cpu") == MB
    assert peak_activations(lambda: [x + x, x + x, x + x], "cpu") == 3 * MB
    assert peak_activations(lambda: x.square().square().square().square(), "cpu") == 2 * MB  # one operand, one result


@pytest.mark.parametrize("stage", PUBLISHED)
@pytest.mark.parametrize("name", SUBJECTS)
@torch.no_grad()
def test_memory_grows_with_frames(name, stage):
    divisor = {"super_resolution": 8}.get(stage, 10)
    cases = (Case(stage, frames, 8, divisor) for frames in (2, 16))
    few, many = (peak_activations(SUBJECTS[name](case)[1], "cpu") for case in cases)
    assert 0 < few < many


def test_both_measures_of_memory_agree_and_a_subject_that_dies_is_named():
    with Subject("LaVieUNet") as subject:
        subject.ask(Case(frames=8, size=32, width_divisor=10))
        subject.ask("seconds")  # the first pass also sets up what stays
        activations, growth = subject.ask("activations"), subject.ask("growth")
        subject._process.kill()
        with pytest.raises(RuntimeError, match="seconds of LaVieUNet ended with exit code -9"):
            subject.ask("seconds")
    assert activations > 5 * MB
    if growth is not None:
        assert 0.75 * activations < growth < activations + 16 * MB  # the surplus: kernels' own buffers, small blocks


def test_the_table_comes_out_and_into_a_file(tmp_path, capsys):
    out = tmp_path / "bench.md"
    options = "--frames 2 --size 8 --width-divisor 10 --repeats 2 --threads 1 --device cpu --out"
    assert main(["forward", *options.split(), str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    rows = {line.split("|")[1].strip(): line for line in printed.splitlines() if line.startswith("|")}
    assert {"LaVieUNet", "UNetMotionModel", "ratio"} < set(rows)
    assert len({row.count("|") for row in rows.values()}) == 1
    assert printed.count("- Goal: ") == 2


def test_goals_are_judged_by_the_ratios():
    slow_once = ((9.0, 9.0), (2.0, 1.0), (2.0, 1.0))
    theirs = Result("UNetMotionModel", weights=1, flops=100, times=slow_once, activations=100, growth=None)
    good = Result("LaVieUNet", weights=1, flops=120, times=slow_once[::-1], activations=80, growth=None)
    bad = Result("LaVieUNet", weights=1, flops=119, times=slow_once, activations=81, growth=None)
    assert table(TINY, good, theirs).count(", met.") == 2
    assert table(TINY, bad, theirs).count(", not met.") == 2


@pytest.mark.parametrize("arguments", ["--size 12", "--frames 0", "--repeats 0", "--width-divisor 3"])
def test_arguments_out_of_range(arguments, capsys):
    assert main(["forward", *arguments.split()]) == 1
    assert "got" in capsys.readouterr().err


NARROW = {"block_channels": (64, 128), "attention_levels": (False, True), "num_heads": 2, "layers_per_block": 1}


class GroupNorm(torch.nn.GroupNorm):
    """As torch computes it on a GPU, and in sizes on the meta device: contiguous, whatever comes in."""

    def forward(self, x):
        return super().forward(x.contiguous())


LAYERS = SimpleNamespace(**{**vars(torch.nn), "GroupNorm": GroupNorm})


@pytest.mark.parametrize("stage", PUBLISHED)
@torch.no_grad()
def test_sizes_alone_tell_the_memory(monkeypatch, stage):
    """What is counted on the meta device is what a forward of the same network holds on the CPU."""
    monkeypatch.setattr(parts, "CHUNK_VALUES", parts.CHUNK_VALUES_CPU)
    config = getattr(UNetConfig, stage)(**NARROW)
    case = replace(PUBLISHED[stage], config=config, window=3, latents=(16, 16))
    counted, weights = memory.measure(case, torch.float32)
    unet = LaVieUNet(config, operations=LAYERS).eval()
    _, forward = published_forward(case, torch.float32, "cpu", True, unet)
    with PeakMemory() as held:
        forward()
    assert counted == pytest.approx(held.peak, rel=1e-4)
    assert weights == sum(parameter.nbytes for parameter in unet.parameters())
    edge = 16 * case.pixels_per_latent
    assert memory.row("tiny", case, "fp32")[:3] == ["tiny", "fp32", f"3 x {edge} x {edge}"]


@torch.no_grad()
def test_what_operations_return_is_what_the_allocator_hands_out():
    """Of channels for which convolutions take no scratch."""
    config = UNetConfig.base(block_channels=(64, 128, 128, 128), num_heads=2)
    case = replace(PUBLISHED["base"], config=config, window=3, latents=(16, 16))
    _, forward = published_forward(case, torch.float32, "cpu", True)
    with PeakMemory() as held:
        forward()
    assert held.peak == pytest.approx(peak_activations(forward, "cpu"), rel=1e-3)


@pytest.mark.parametrize("stage", PUBLISHED)
def test_what_is_written_down_is_what_is_counted(stage):
    published = PUBLISHED[stage]
    peak, _ = memory.measure(published, torch.float16)
    assert memory.held_values(published, torch.float16, peak) == pytest.approx(published.held_values, rel=0.01)
    assert peak < {"base": 0.4e9, "interpolation": 1.0e9, "super_resolution": 4.5e9}[stage]
    at_leisure, _ = memory.measure(published, torch.float16, again=False)
    held = memory.held_values(published, torch.float16, at_leisure)
    assert held == pytest.approx(published.held_values_at_leisure, rel=0.01)


def test_reading_is_measured_on_videos_made_here_and_on_ones_own(tmp_path, capsys):
    assert main(["load", "--size", "128x96", "--frames", "60", "--clip", "4x32x48", "--count", "2"]) == 0
    assert "2 clips of 4x32x48 from H.264, 128x96, " in capsys.readouterr().out
    make_video(tmp_path / "mine.mp4", 50, 96, 64)
    assert main(["load", "--video", str(tmp_path / "mine.mp4"), "--clip", "4x32x48", "--count", "2"]) == 0
    said = capsys.readouterr().out
    assert "from mine.mp4, 96x64, " in said and "clips per second and core" in said
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    assert main(["load", "--video", str(tmp_path / "bad.mp4")]) != 0
    assert "bad.mp4: not a readable video" in capsys.readouterr().err
