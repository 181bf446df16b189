"""No stall: each stage's forward is one graph that reads no value back, compiled once for a whole windowed run."""

import comfy.ldm.modules.attention
import pytest
import torch
from comfy.context_windows import ContextSchedules
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfyui_lavie.lavie_models import UNetConfig, parts
from comfyui_lavie.lavie_models.comfyui.model import LaVieModelConfig, load_model
from comfyui_lavie.tests.compat.kit import given, guider, noise, relative, save_unet, step, text, windows
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

FRAMES = 9
# One level has every kind of layer, and tracing takes a time in proportion to the layers.
SIZES = {"block_channels": (32,), "attention_levels": (True,), "num_heads": 1, "layers_per_block": 1, "context_dim": 16}
CONFIGS = {stage: getattr(UNetConfig, stage)(**SIZES) for stage in ("base", "interpolation", "super_resolution")}
# Length and overlap of windows; interpolation's begin at every fourth frame.
WINDOWS = {"base": (5, 3), "interpolation": (5, 1), "super_resolution": (5, 3)}


@pytest.fixture(autouse=True)
def kernel(monkeypatch):
    """torch's attention, which ComfyUI takes on a GPU; the one it takes on a CPU asks the system for free memory."""
    attention = comfy.ldm.modules.attention
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)


def sampled(model, stage: str) -> torch.Tensor:
    """Two steps with guidance, in windows that overlap."""
    length, overlap = WINDOWS[stage]
    windowed = windows(model, length=length, overlap=overlap, schedule=ContextSchedules.STATIC_STANDARD)
    values = given(stage, FRAMES) if CONFIGS[stage].in_channels > 4 else {}
    positive, negative = (text(seed, **values) for seed in (1, 2))
    return step(guider(windowed, positive, negative, 3.0), noise(FRAMES), 5.0, 1.0)


@pytest.mark.core("TorchCompileModel: one graph, compiled once for all windows and steps", stage=tuple(CONFIGS))
@pytest.mark.parametrize("stage", CONFIGS)
def test_one_graph_serves_a_windowed_run(files, stage):
    """Without a graph break; traced only, since what a compiler makes of the graph is the compiler's affair."""
    torch._dynamo.reset()
    file = save_unet(files / f"level_{stage}.safetensors", CONFIGS[stage])
    model, counter = load_model(str(file), stage), CompileCounter()
    wanted = sampled(model, stage)
    set_torch_compile_wrapper(model, backend=counter, fullgraph=True)
    assert relative(sampled(model, stage), wanted) < 1e-5
    assert counter.frame_count == 1


@pytest.mark.parametrize("values", [2**30, 2**12], ids=["whole", "by parts"])
@pytest.mark.parametrize("stage", CONFIGS)
def test_no_value_is_read_back(monkeypatch, stage, values):
    """Fake tensors have no values: whoever asks for one gets an error."""
    monkeypatch.setattr(parts, "CHUNK_VALUES_CPU", values)
    config = CONFIGS[stage]
    described = LaVieModelConfig(config, config.architecture.prediction)
    described.set_inference_dtype(torch.float32, None)
    with FakeTensorMode(), torch.no_grad():
        made, more = described.get_model({}), {}
        if config.in_channels > 4:
            more["c_concat"] = torch.randn(4, config.in_channels - 4, 8, 8)
        if config.architecture.noise_levels:
            more["y"] = torch.tensor([50, 50])
        out = made.apply_model(
            torch.randn(4, 4, 8, 8), torch.ones(4), c_crossattn=torch.randn(2, 7, config.context_dim),
            transformer_options={"cond_or_uncond": [0, 1], "wrappers": {}}, **more,
        )  # fmt: skip
        assert out.shape == (4, 4, 8, 8)
        with pytest.raises(DataDependentOutputException):
            bool((out > 0).all())
