"""The benchmark: its counts against counts by hand, its memory figures against known ones, its table."""

import pytest
import torch
from comfyui_lavie.bench import memory
from comfyui_lavie.bench.__main__ import Result, main, table
from comfyui_lavie.bench.measure import Subject, count_flops, peak_activations
from comfyui_lavie.bench.subjects import SUBJECTS, Case
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig, transformer
from comfyui_lavie.lavie_models.attention import sdpa_attention

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

    unet = LaVieUNet(UNetConfig.base(block_channels=TINY.widths, num_heads=TINY.heads), attention=count_attention)
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


@pytest.mark.parametrize("name", SUBJECTS)
@torch.no_grad()
def test_memory_grows_with_frames(name):
    few, many = (peak_activations(SUBJECTS[name](Case(frames, 8, 10))[1], "cpu") for frames in (2, 16))
    assert 0 < few < many


def test_both_measures_of_memory_agree():
    with Subject("LaVieUNet", Case(frames=8, size=32, width_divisor=10)) as subject:
        subject.ask("seconds")  # the first pass also sets up what stays
        activations, growth = subject.ask("activations"), subject.ask("growth")
    assert activations > 5 * MB
    if growth is not None:
        assert 0.75 * activations < growth < activations + 16 * MB  # the surplus: kernels' own buffers, small blocks


def test_a_subject_that_dies_is_named():
    with Subject("LaVieUNet", TINY) as subject:
        subject.ask("weights")
        subject._process.kill()
        with pytest.raises(RuntimeError, match="seconds of LaVieUNet ended with exit code -9"):
            subject.ask("seconds")


def test_the_table_comes_out_and_into_a_file(tmp_path, capsys):
    out = tmp_path / "bench.md"
    main("--frames 2 --size 8 --width-divisor 10 --repeats 2 --threads 1 --device cpu".split() + ["--out", str(out)])
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    rows = {line.split("|")[1].strip(): line for line in printed.splitlines() if line.startswith("|")}
    assert {"LaVieUNet", "UNetMotionModel", "ratio"} < set(rows)
    assert len({row.count("|") for row in rows.values()}) == 1
    assert printed.count("- Goal: ") == 2


def test_goals_are_judged_by_the_ratios():
    theirs = Result("UNetMotionModel", weights=1, flops=100, times=(9.0, 1.0, 1.0), activations=100, growth=None)
    good = Result("LaVieUNet", weights=1, flops=120, times=(1.0, 1.0, 9.0), activations=80, growth=None)
    bad = Result("LaVieUNet", weights=1, flops=119, times=(1.0,), activations=81, growth=None)
    assert table(TINY, good, theirs).count(", met.") == 2
    assert table(TINY, bad, theirs).count(", not met.") == 2


@pytest.mark.parametrize("arguments", [["--size", "12"], ["--frames", "0"], ["--repeats", "0"]])
def test_arguments_out_of_range(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "got" in capsys.readouterr().err


NARROW = {"block_channels": (64, 128, 128, 128), "num_heads": 2}


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [
        (UNetConfig.base(**NARROW), 0.001),
        (UNetConfig.interpolation(**NARROW), 0.001),
        (UNetConfig.super_resolution(**NARROW), 0.2),  # a CPU keeps the layout in group norms, and takes scratch
    ],
    ids=lambda value: getattr(value, "stage", ""),
)
@torch.no_grad()
def test_sizes_alone_tell_the_memory(monkeypatch, config, tolerance):
    """What is counted on the meta device is what a forward of the same network takes on the CPU."""
    monkeypatch.setattr(transformer, "CHUNK_VALUES", transformer.CHUNK_VALUES_CPU)
    case, dtype = memory.Case(config, window=3, clip=5, latents=(16, 16), factor=4), torch.bfloat16
    unet = LaVieUNet(config, dtype=dtype).eval().channels_last()
    x, text = torch.randn(3, config.in_channels, 16, 16).to(dtype), torch.randn(1, 77, config.context_dim).to(dtype)
    level = torch.tensor([50]) if config.architecture.noise_levels else None
    taken = peak_activations(lambda: unet(x, torch.tensor([500]), text, num_frames=3, noise_level=level), "cpu")
    counted, weights = memory.measure(case, dtype)
    assert counted == pytest.approx(taken, rel=tolerance)
    assert weights == sum(parameter.nbytes for parameter in unet.parameters())
    assert memory.row("tiny", case, dtype).startswith("| tiny | bfloat16 | 3 x 64 x 64 |")
