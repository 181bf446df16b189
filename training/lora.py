"""Low-rank adapters on spatial layers, and their files in the two namings that ComfyUI and diffusers read.

Contract: a layer's weight becomes W + (alpha / rank) * up @ down while the layer itself is left alone: `LoRA` holds the
new parameters and adds their part to the layer's output by a hook, so that names, checkpoints and the layer's class
stay what they were. Temporal layers are never adapted (paper section 5.3: personalisation trains spatial layers).
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from ..lavie_models import LaVieUNet, UNetConfig
from ..lavie_models.key_names import module_names, rename
from ..lavie_models.unet import is_temporal

# What a recipe may name, and the modules it means. A text encoder's are chosen by `lora.text_encoder`.
TARGETS = {
    "attention": r"\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$",
    "feed_forward": r"\.(ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)$",
    "convolutions": r"\.(in_layers\.2|out_layers\.3|skip_connection|op|conv)$",
}
TEXT_TARGETS = r"\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.fc[12])$"
FORMATS = ("kohya", "diffusers")


class LoRALayer(nn.Module):
    """The low-rank part of one linear layer or convolution; starts as zero."""

    def __init__(self, layer: nn.Module, rank: int, alpha: float):
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            kernel = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
            self.down = nn.Conv2d(layer.in_channels, rank, bias=False, **kernel)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)
        self.scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x)) * self.scale


class LoRA(nn.Module):
    """Adapters of the layers called ``names`` in ``model``, attached to it on construction.

    Parameters are drawn from torch's global generator and live on the CPU in float32 until moved. ``alpha`` / ``rank``
    scales what they add.
    """

    def __init__(self, model: nn.Module, names: list[str], rank: int, alpha: float):
        super().__init__()
        self.layers, self._on = nn.ModuleDict(), True
        for name in names:
            layer = model.get_submodule(name)
            adapter = LoRALayer(layer, rank, alpha)
            self.layers[name.replace(".", "/")] = adapter  # dots are not allowed in a ModuleDict
            layer.register_forward_hook(partial(self._add, adapter))

    def _add(self, adapter: LoRALayer, _layer: nn.Module, inputs: tuple, out: torch.Tensor) -> torch.Tensor:
        return out + adapter(inputs[0]) if self._on else out

    @contextmanager
    def disabled(self):
        """The model as it was without adapters, for as long as the context lasts."""
        self._on = False
        try:
            yield
        finally:
            self._on = True


def unet_layers(unet: LaVieUNet, targets: tuple[str, ...]) -> list[str]:
    """Names of the UNet's spatial layers that ``targets``, of TARGETS, mean."""
    pattern = re.compile("|".join(f"(?:{TARGETS[target]})" for target in targets))
    kinds = (nn.Linear, nn.Conv2d)
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, kinds) and pattern.search(name) and not is_temporal(f"{name}.weight")
    ]


def text_layers(model: nn.Module) -> list[str]:
    """Names of a CLIP text model's attention and feed-forward layers."""
    return [name for name, _ in model.named_modules() if re.search(TEXT_TARGETS, name)]


def pairs(state: dict[str, torch.Tensor], part: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{layer name: (down, up)} from the parameters of a `LoRA` that is called ``part`` in ``state``."""
    found = [re.fullmatch(rf"{part}\.layers\.(.+)\.down\.weight", key) for key in state]
    keys = [match[1] for match in found if match]
    return {
        key.replace("/", "."): tuple(state[f"{part}.layers.{key}.{side}.weight"] for side in ("down", "up"))
        for key in keys
    }


def export_lora(
    unet: dict[str, tuple[torch.Tensor, torch.Tensor]],
    text: dict[str, tuple[torch.Tensor, torch.Tensor]],
    config: UNetConfig,
    alpha: float,
    naming: str,
) -> dict[str, torch.Tensor]:
    """Tensors of a LoRA file.

    Args:
        unet, text: as `pairs` gives them, {} where there is none.
        config: of the UNet, from which the diffusers names of its layers follow.
        naming: "kohya" (``lora_unet_..., lora_te_...`` with an alpha per layer) or "diffusers" (``unet....``,
            ``text_encoder....``, alpha multiplied in). The latter writes attention layers as attention processors,
            the one spelling of diffusers that both diffusers and ComfyUI's core loader know.
    """
    names = {ours: published for published, ours in module_names(config).items()}
    layers = [("unet", rename(f"{name}.weight", names).removesuffix(".weight"), pair) for name, pair in unet.items()]
    layers += [("text_encoder", "text_model." + name.removeprefix("text_model."), pair) for name, pair in text.items()]
    tensors = {}
    for part, name, (down, up) in layers:
        if naming == "kohya":
            key = f"{'lora_unet' if part == 'unet' else 'lora_te'}_{name.replace('.', '_')}"
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
        else:
            key = f"{part}.{_diffusers_layer(part, name)}"
            tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up * (alpha / down.shape[0])}
    return {key: value.contiguous() for key, value in tensors.items()}


def _diffusers_layer(part: str, name: str) -> str:
    if part == "text_encoder":
        return f"{name}.lora_linear_layer"
    attention, separator, projection = name.rpartition(".to_")
    return f"{attention}.processor.to_{projection.removesuffix('.0')}_lora" if separator else f"{name}.lora"
