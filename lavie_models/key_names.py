"""Published (diffusers) parameter names and ours (those of ComfyUI's SD UNet), generated from a UNetConfig.

Contract: `module_names` pairs every module whose name differs; what follows a module's name (``weight``,
``transformer_blocks.0.attn1.to_q.weight``, ...) is the same on both sides. `FREQUENCIES` end the published names of the
rotary table, which is a formula and no parameter of ours; `SHARED_FREQUENCIES` is the one that belongs to no module.
"""

from __future__ import annotations

from .config import UNetConfig

FREQUENCIES = "rotary_emb.freqs"
SHARED_FREQUENCIES = "temporal_rotary_emb.freqs"

# Published parts of a residual block and what we call them.
RESIDUAL_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
SINGLE_MODULES = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def module_names(config: UNetConfig) -> dict[str, str]:
    """{published module name: our module name} for a UNet of this layout; names are unique on both sides."""
    names = dict(SINGLE_MODULES)
    levels, layers = len(config.block_channels), config.layers_per_block

    def residual(published: str, ours: str):
        names.update({f"{published}.{part}": f"{ours}.{name}" for part, name in RESIDUAL_PARTS.items()})

    if config.architecture.noise_levels:
        names["class_embedding"] = "label_emb"
    if config.architecture.temporal_convolutions:
        names["mid_temporal_block"] = "mid_temporal_block"
        for level in range(levels):
            names.update({name: name for way in ("down", "up") if (name := f"{way}_temporal_blocks.{level}")})

    number = 1  # input block 0 is conv_in
    for level in range(levels):
        for layer in range(layers):
            residual(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0")
            if config.attention_levels[level]:
                names[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if level < levels - 1:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1

    residual("mid_block.resnets.0", "middle_block.0")
    names["mid_block.attentions.0"] = "middle_block.1"
    residual("mid_block.resnets.1", "middle_block.2")

    number = 0
    for block, attention in enumerate(reversed(config.attention_levels)):
        for layer in range(layers + 1):
            residual(f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{number}.0")
            if attention:
                names[f"up_blocks.{block}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        if block < levels - 1:
            names[f"up_blocks.{block}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{1 + attention}.conv"
    return names


def rename(key: str, names: dict[str, str]) -> str | None:
    """``key`` with the longest module name found in ``names`` replaced, or None if there is none."""
    module, _, rest = key.rpartition(".")
    while module:
        if module in names:
            return f"{names[module]}.{rest}"
        module, _, last = module.rpartition(".")
        rest = f"{last}.{rest}"
    return None
