"""LaVieUNet: a Stable Diffusion UNet that works frame by frame, plus temporal layers.

One definition serves training (``operations=torch.nn``) and ComfyUI (its casting layers), and every stage of the
cascade by configuration. Modules carry the names of ComfyUI's own SD UNet, so that SD 1.x LoRAs, merges and patches
reach the spatial layers; temporal layers keep LaVie's published names.
"""

from __future__ import annotations

import torch
from torch import nn

from .attention import sdpa_attention
from .clips import ClipLayout
from .config import ARCHITECTURES, NORM_GROUPS, UNetConfig
from .inputs import check_inputs, per_frame, split_text, videos_first
from .parts import ClipNorm, frame_parts, keeps_whole
from .positions import FramePositions, timestep_embedding
from .resnet import Downsample, ResBlock, TemporalModule, Upsample, clip_group_norm, silu
from .transformer import Condition, SpatialTransformer

# Parts of parameter names that only temporal layers have, in any stage.
TEMPORAL_PARTS = (
    *(f"{kind}_{a.temporal_name}." for a in ARCHITECTURES.values() for kind in ("attn", "norm")),
    "resblock_temporal.", "_temporal_block",
)  # fmt: skip
# Entry of `transformer_options`: true to compute the stem, and the third convolution of the largest temporal module, a
# second time rather than to keep what they gave. Saves super-resolution a third of its activations.
COMPUTE_AGAIN = "lavie_compute_again"
LARGE = 2**29  # values of a temporal module's input from which that is worth it


def is_temporal(name: str) -> bool:
    """Whether a parameter (our name or the published one) belongs to what LaVie adds to the image model."""
    return any(part in name for part in TEMPORAL_PARTS)


class LaVieUNet(nn.Module):
    """Denoiser of video latents.

    Args:
        config: sizes and stage.
        operations: namespace of layer classes (``torch.nn`` or one of ComfyUI's ``comfy.ops``).
        attention: attention kernel with the signature of ``attention.sdpa_attention``.
        dtype, device: of all parameters.

    Activations are channels-last. ``channels_last`` turns the weights likewise, which saves convolutions a copy of
    their weight in every pass; they are made contiguous, as safetensors wants them.

    Source: paper section 3; module layout of Stable Diffusion 1.x.
    """

    def __init__(self, config: UNetConfig, operations=nn, attention=sdpa_attention, dtype=None, device=None):
        super().__init__()
        self.config = config
        widths, time_dim = config.block_channels, config.time_dim
        factory = {"dtype": dtype, "device": device}
        layer = {"operations": operations, **factory}

        def transformer(level):
            text_first = config.architecture.text_first and level < len(widths) - 1
            return SpatialTransformer(widths[level], config, text_first, attention=attention, **layer)

        def temporal_module(level):
            return TemporalModule(widths[level], time_dim, **layer)

        def residual(level, in_channels):
            """A residual block and, where the level has them, a transformer."""
            block = nn.ModuleList([ResBlock(in_channels, widths[level], time_dim, **layer)])
            if config.attention_levels[level]:
                block.append(transformer(level))
            return block

        self.time_embed = nn.Sequential(
            operations.Linear(widths[0], time_dim, **factory),
            nn.SiLU(),
            operations.Linear(time_dim, time_dim, **factory),
        )
        self.label_emb = None
        if config.architecture.noise_levels:
            self.label_emb = operations.Embedding(config.architecture.noise_levels, time_dim, **factory)
        stem = operations.Conv2d(config.in_channels, widths[0], 3, padding=1, **factory)
        self.input_blocks = nn.ModuleList([nn.ModuleList([stem])])
        skips, channels = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.layers_per_block):
                self.input_blocks.append(residual(level, channels))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels, **layer)]))
                skips.append(channels)
        self.middle_block = nn.ModuleList(
            [
                ResBlock(channels, channels, time_dim, **layer),
                transformer(len(widths) - 1),
                ResBlock(channels, channels, time_dim, **layer),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for index in range(config.layers_per_block + 1):
                block = residual(level, channels + skips.pop())
                channels = widths[level]
                if level and index == config.layers_per_block:
                    block.append(Upsample(channels, **layer))
                self.output_blocks.append(block)
        self.out = nn.Sequential(
            operations.GroupNorm(NORM_GROUPS, channels, **factory),
            nn.SiLU(),
            operations.Conv2d(channels, config.out_channels, 3, padding=1, **factory),
        )

        self.down_temporal_blocks = self.mid_temporal_block = self.up_temporal_blocks = None
        if config.architecture.temporal_convolutions:
            self.down_temporal_blocks = nn.ModuleList(temporal_module(level) for level in range(len(widths)))
            self.mid_temporal_block = temporal_module(len(widths) - 1)
            self.up_temporal_blocks = nn.ModuleList(temporal_module(level) for level in reversed(range(len(widths))))

    def channels_last(self) -> LaVieUNet:
        """Lay convolution weights out as activations are, in place; returns itself."""
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        for parameter in self.parameters():
            if parameter.ndim in formats:
                parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
        return self

    def forward(
        self, x, timesteps, context, num_frames: int, num_images: int = 0, noise_level=None, control=None,
        transformer_options=None,
    ):  # fmt: skip
        """Predict noise or velocity, as the model was trained to.

        Args:
            x: (B * (F + M), in_channels, H, W) noisy latents, in further channels conditions (interpolation: the clean
                latent of each frame's source; super-resolution: the low-resolution frame, RGB in -1 .. 1, noised); the
                frames of a clip are adjacent, its M images follow.
            timesteps: (B,) or one per frame, 0 .. 999, fractional ones too.
            context: text tokens (n, tokens, context_dim) with n = B (no images), B * (1 + M): each video's text
                followed by its images', or one per frame.
            num_frames: F, one clip's frames (1 .. 128 were tried).
            num_images: M, images joined to each clip; they share all spatial layers, bypass temporal attention and
                do not influence the video (joint image-video training, paper section 3.3).
            noise_level: super-resolution only, how noisy the low-resolution frames are: whole numbers 0 .. 999
                (trained to 350), (B,) or one per frame.
            control: ControlNet residuals as ComfyUI gives them, lists under "input", "middle" and "output".
            transformer_options: ComfyUI's patches and replacements.

        Returns:
            (B * (F + M), out_channels, H, W), rows in the order of ``x``.

        Raises:
            ValueError: naming what was expected and what came.
        """
        rows = check_inputs(self.config, x, timesteps, context, num_frames, num_images, noise_level)
        clips = ClipLayout(rows, num_frames, rows * num_images)
        n, height, width = x.shape[0], x.shape[2], x.shape[3]
        if num_images:
            order = videos_first(rows, num_frames, num_images, x.device)
            x = x[order]
        order = order if num_images else None
        timesteps = per_frame(timesteps, n, order)
        text, image_text = split_text(context, clips, num_images)
        options = {**(transformer_options or {}), "original_shape": list(x.shape), "transformer_index": 0}
        known = self.config.architecture.rotary or self.config.architecture.position_bias
        positions = FramePositions.of(num_frames, x.device) if known else None
        cond = Condition(clips, text, positions, image_text, options)

        emb = self.time_embed(timestep_embedding(timesteps, self.config.block_channels[0]).to(x.dtype))
        if noise_level is not None:
            emb = emb + self.label_emb(per_frame(noise_level, n, order).long()).to(emb.dtype)
        for patch in cond.patches("emb_patch"):
            emb = patch(emb, self.config.block_channels[0], options)
        h = x.contiguous(memory_format=torch.channels_last)
        skips, sizes = [], []
        for index, block in enumerate(self.input_blocks):
            options["block"] = ("input", index)
            h = self._run(block, [h], emb, cond)
            h = _add_control(h, control, "input")
            for patch in cond.patches("input_block_patch"):
                h = patch(h, options)
            skips.append(h)
            sizes.append(h.shape[-2:])
            for patch in cond.patches("input_block_patch_after_skip"):
                h = patch(h, options)
            h = self._after_level(self.down_temporal_blocks, index, len(self.input_blocks), h, emb, cond)
        if options.get(COMPUTE_AGAIN) and not control and not cond.patches("input_block_patch"):
            skips[0] = None
        options["block"] = ("middle", 0)
        h = _add_control(self._run(self.middle_block, [h], emb, cond), control, "middle")
        if self.mid_temporal_block is not None:
            h = cond.clips.videos_only(self.mid_temporal_block, h, emb)
        for patch in cond.patches("middle_block_after_patch"):
            seen = {"h": h, "x": x, "emb": emb, "context": context, "y": None, "timesteps": timesteps}
            h = patch({**seen, "transformer_options": options})["h"]
        for index, block in enumerate(self.output_blocks):
            options["block"] = ("output", index)
            skip = skips.pop()
            if skip is None:
                skip = self._run(self.input_blocks[0], [x], emb, cond)
            skip = _add_control(skip, control, "output")
            for patch in cond.patches("output_block_patch"):
                h, skip = patch(h, skip, options)
            held = [h, skip]
            del h, skip
            h = self._run(block, held, emb, cond, sizes[-index - 2] if skips else (height, width))
            h = self._after_level(self.up_temporal_blocks, index + 1, len(self.output_blocks) + 1, h, emb, cond)
        h = self._finish(h.to(x.dtype), clips)
        return h if order is None else h[order.argsort()]

    def _finish(self, h, clips: ClipLayout):
        """The last norm and convolution."""
        norm, convolution = self.out[0], self.out[2]
        if keeps_whole(h, clips):
            return convolution(silu(clip_group_norm(norm, h, clips)))
        parts = list(frame_parts(h, clips))
        normalise = ClipNorm(norm, clips)
        for video, frames in parts:
            normalise.see(video, h[frames])
        return torch.cat([convolution(normalise(video, h[frames])) for video, frames in parts])

    def _after_level(self, modules, index: int, count: int, h, emb, cond: Condition):
        """The temporal module of the level that ends with block ``index`` of ``count``, if one does."""
        blocks = self.config.layers_per_block + 1  # of a level, up- or down-sampler or stem included
        ends = index > 0 and index % blocks == 0 or index == count - 1
        if modules is None or not ends:
            return h
        module = modules[(index - 1) // blocks]
        if cond.clips.images:
            return cond.clips.videos_only(module, h, emb)
        return module(cond.clips, h, emb, bool(cond.options.get(COMPUTE_AGAIN)) and h.numel() >= LARGE)

    @staticmethod
    def _run(block, held: list, emb, cond: Condition, size=None):
        """A block on what is held: h, on the way up with its skip. ``held`` is emptied as soon as it is read."""
        layers = list(block)
        if isinstance(layers[0], ResBlock):
            h = layers[0](held[0], emb, cond.clips, *held[1:])
        else:
            h = layers[0](held[0])
        held.clear()
        for layer in layers[1:]:
            if isinstance(layer, ResBlock):
                h = layer(h, emb, cond.clips)
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, cond)
                cond.options["transformer_index"] += 1
            elif isinstance(layer, Upsample):
                h = layer(h, size)
            else:
                h = layer(h)
        return h


def _add_control(h, control, name: str):
    """Add the next ControlNet residual of ``name``; the lists are consumed from their end, as ComfyUI does."""
    residual = control[name].pop() if control and control.get(name) else None
    if residual is None:
        return h
    if residual.shape[-3:] != h.shape[-3:]:
        raise ValueError(
            f"a ControlNet residual of shape {tuple(residual.shape)} does not fit {name} features "
            f"{tuple(h.shape)}; use an SD 1.x ControlNet and a size that is a multiple of 64 pixels"
        )
    return h + residual
