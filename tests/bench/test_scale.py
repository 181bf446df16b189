"""Scale: FLOPs and memory against the real thing at tiny size, and what the formulas make of them."""

import pytest
import torch
from comfyui_lavie.bench.__main__ import main
from comfyui_lavie.bench.encoding import NO_ENCODING, encoding_cost
from comfyui_lavie.bench.footprint import Footprint, footprint
from comfyui_lavie.bench.scale import Machine, estimate
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.attention import sdpa_attention
from comfyui_lavie.lavie_models.schedule import alphas_cumprod
from comfyui_lavie.tests.tiny_training import SIZES
from comfyui_lavie.training.step import Batch, row_losses
from torch.utils.flop_counter import FlopCounterMode

CONFIG = UNetConfig.base(**SIZES)
MACHINE = Machine(peak_tflops=100, utilisation=0.5, gpu_memory=80, per_node=8, node_gbs=100, network_gbs=10, slack=1.0)
COST = Footprint(parameters=10**9, trained=10**9, forward_flops=10**13, flops=3 * 10**13, activations=10**10)


def plain_attention(q, k, v, heads, mask=None, transformer_options=None):
    """Attention in two matrix products that torch's counter sees."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2)
    return ((scores if mask is None else scores + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)


def test_flops_are_those_of_a_real_step():
    """Beside a real forward and backward pass; a fused kernel computes the scores once more on the way back."""
    unet = LaVieUNet(CONFIG, attention=plain_attention)
    latents, text = torch.randn(1, 6, 4, 8, 8), torch.randn(3, 77, 64)
    batch = Batch(latents, latents, torch.tensor([5]), text, 4, 2)
    with FlopCounterMode(display=False) as counter:
        loss = row_losses(unet, batch, text, alphas_cumprod(), "v").mean()
        forward = counter.get_total_flops()
        loss.backward()
    cost = footprint(CONFIG, 4, 2, 8, 8)
    assert cost.forward_flops == forward
    assert counter.get_total_flops() <= cost.flops < 1.05 * counter.get_total_flops()
    assert cost.parameters == cost.trained == sum(p.numel() for p in unet.parameters())


def test_encoders_cost_what_their_layers_cost():
    """The text encoder in closed form; the VAE by its first and widest layers, of which it has more."""
    cost = encoding_cost("base", 20, 5, 40, 64)
    layer = 2 * 77 * (4 * 768 * 768 + 2 * 768 * 3072) + 4 * 77 * 77 * 768
    assert cost.text_flops == 5 * 12 * layer
    assert encoding_cost("base", 1, 1, 80, 64).vae_flops > 2 * cost.vae_flops / 20
    pixels = 320 * 512
    known = 2 * 9 * pixels * (3 * 128 + 4 * 128 * 128 + 4 * 256 * 256 / 4 * 0.875 + 4 * 512 * 512 / 16 * 0.875)
    assert known < cost.vae_flops / 20 < 2 * known
    assert cost.weights == pytest.approx(4 * (83.65e6 + 123.06e6), rel=0.001)
    plain, encoded = (estimate(COST, 8, MACHINE, False, True, False, one) for one in (NO_ENCODING, cost))
    assert encoded.seconds - plain.seconds == pytest.approx((cost.vae_flops + cost.text_flops) / 25e12)
    assert encoded.memory - plain.memory == pytest.approx(cost.weights / 1e9)


def test_activations_grow_with_rows_and_shrink_with_checkpointing():
    one, two = (footprint(CONFIG, 4, 2, 16, 16, rows=rows).activations for rows in (1, 2))
    assert 1.7 < two / one < 2.05
    assert footprint(CONFIG, 4, 2, 16, 16, rows=2, checkpointing=True).activations < 0.5 * two
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    unet = LaVieUNet(CONFIG, attention=sdpa_attention)
    weights = {parameter.data_ptr() for parameter in unet.parameters()}
    latents, text = torch.randn(2, 6, 4, 16, 16), torch.randn(6, 77, 64)
    batch = Batch(latents, latents, torch.tensor([5, 6]), text, 4, 2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        row_losses(unet, batch, text, alphas_cumprod(), "v").mean()
    whole = sum(size for pointer, size in saved.items() if pointer not in weights)
    assert 0.4 < two / whole < 1.2, "bf16 with float32 norms takes between half and all of float32"


def test_temporal_layers_alone_need_less():
    sizes = {**SIZES, "attention_levels": (False, True)}
    config = UNetConfig.super_resolution(**sizes)
    every, some = (footprint(config, 4, 0, 8, 8, temporal_only=temporal) for temporal in (False, True))
    assert some.trained < every.trained == every.parameters == some.parameters and some.flops < every.flops


def test_estimates_follow_their_formulas():
    alone = estimate(COST, 1, MACHINE, fsdp=False, average=True, eight_bit=False)
    assert alone.memory == pytest.approx(20 + 10) and alone.seconds == pytest.approx(0.6)
    assert estimate(COST, 1, MACHINE, False, False, True).memory == pytest.approx(4 + 4 + 2 + 10)
    shared = estimate(COST, 8, MACHINE, fsdp=True, average=True, eight_bit=False)
    assert shared.memory == pytest.approx(20 / 8 + 10)
    assert shared.seconds == pytest.approx(0.6), "the exchange hides behind the backward pass"
    slow = estimate(COST, 64, MACHINE, fsdp=False, average=True, eight_bit=False)
    assert slow.seconds == pytest.approx(0.2 + 8e9 * 63 / 64 / 10e9), "between nodes the exchange takes longer"


def test_the_command_prints_its_table_and_assumptions(capsys):
    assert main(["scale", "--stage", "super_resolution", "--gpus", "1,8", "--utilisation", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "| 1 | - |" in out and "| 8 | fsdp |" in out and "utilisation=0.5" in out and "691.0 M parameters" in out
