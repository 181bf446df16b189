"""LaVie UNets as native MODELs.

Contract: the patcher that `load_model` returns is what ComfyUI's own loaders return for SD 1.x (super-resolution: for
the SD x4-upscaler). Frames are the batch, so everything that works on SD latents works here; `unet_config` carries the
fields from which ComfyUI derives LoRA key maps and block sizes; the noise schedule is LaVie's. What interpolation and
super-resolution are conditioned on travels in the conditioning, under the keys SOURCE_LATENTS, LOW_RESOLUTION and
NOISE_LEVEL, one entry per frame, so that context windows take the part that belongs to them.
"""

from __future__ import annotations

import functools
import weakref

import comfy.conds
import comfy.latent_formats
import comfy.ldm.modules.attention
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.supported_models
import comfy.utils
import torch

from ..checkpoint import unet_weights
from ..config import UNetConfig
from ..published import PUBLISHED
from ..unet import COMPUTE_AGAIN, LaVieUNet
from ..weights_file import inspect_weights
from . import preview, preview_server
from .files import building, open_model_file
from .frame_texts import plain
from .sampling import SAMPLINGS
from .windows import follow_windows

SOURCE_LATENTS = "concat_latent_image"  # (F, 4, h, w) as a VAE gives them; the name that core's nodes use
LOW_RESOLUTION = "lavie_low_resolution"  # (F, 3, h, w), noised
NOISE_LEVEL = "lavie_noise_level"  # a whole number

CONDITIONING_NODES = {"base": "LaVie First Frame Conditioning", "interpolation": "LaVie Interpolation Conditioning"}
MEMORY_UNIT = 0.01 * 1024**2  # numbers per frame and latent pixel in one of `memory_usage_factor`, with fused attention
FOR_GPU_LIBRARIES = 4 / 3  # of the activations: what these libraries take for themselves beside them
MODEL_TYPES = {"epsilon": comfy.model_base.ModelType.EPS, "v": comfy.model_base.ModelType.V_PREDICTION}


class TextOfClip(comfy.conds.CONDCrossAttn):
    """Text that all frames share stays one entry, however many frames there are; text per frame is cut as it was."""

    def process_cond(self, batch_size, **kwargs):
        return self._copy_with(self.cond) if self.cond.shape[0] == 1 else super().process_cond(batch_size, **kwargs)


def _optimized_attention(q, k, v, heads, mask=None, transformer_options=None):
    """The kernel ComfyUI has chosen, looked up at call time so that later choices count."""
    kernel = comfy.ldm.modules.attention.optimized_attention
    return kernel(q, k, v, heads, mask=mask, transformer_options=transformer_options)


class ComfyUNet(LaVieUNet):
    """LaVieUNet behind the signature with which ComfyUI calls its SD UNet."""

    def forward(self, x, timesteps=None, context=None, y=None, control=None, transformer_options=None, **kwargs):
        """(n * F, C, H, W) for n conditions of one clip of F frames each, as ``cond_or_uncond`` counts them."""
        options = {} if transformer_options is None else transformer_options
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._denoise, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, options, **kwargs)

    def _denoise(self, x, timesteps, context, y=None, control=None, transformer_options=None, **kwargs):
        conditions = len(transformer_options.get("cond_or_uncond", (0,)))
        return super().forward(
            x, timesteps, context, num_frames=x.shape[0] // conditions, noise_level=y, control=control,
            transformer_options=transformer_options,
        )  # fmt: skip


def _build_unet(config: UNetConfig, dtype=None, device=None, operations=None, **described):
    """Called by BaseModel with ``unet_config``, of which the UNet itself needs no more than the dtype."""
    unet = ComfyUNet(config, operations=operations, attention=_optimized_attention, dtype=dtype, device=device)
    unet.dtype = dtype
    return unet


class LaVieModel(comfy.model_base.BaseModel):
    """A LaVie stage in ComfyUI's model hierarchy."""

    def __init__(self, model_config, model_type, device=None):
        build = functools.partial(_build_unet, model_config.lavie_config)
        super().__init__(model_config, model_type, device=device, unet_model=build)
        self.model_sampling = SAMPLINGS[model_config.prediction](model_config)
        self._placed = weakref.WeakValueDictionary()  # as long as a sampling's conditions hold them

    def concat_cond(self, **kwargs):
        """What goes into the channels beyond the noisy latent's, per frame; None for the plain base network."""
        config, noise = self.model_config.lavie_config, kwargs["noise"]
        if config.in_channels == self.latent_format.latent_channels:
            if SOURCE_LATENTS in kwargs and "concat_mask" not in kwargs:  # with a mask: core's inpainting, made for any
                raise ValueError(
                    f"this {config.stage} model takes no frames to start from; use one that was trained for it, or "
                    f"take {CONDITIONING_NODES[config.stage]} out"
                )
            return None
        upscaling = config.stage == "super_resolution"
        key, node = (
            (LOW_RESOLUTION, "LaVie Super-Resolution Conditioning")
            if upscaling
            else (SOURCE_LATENTS, CONDITIONING_NODES[config.stage])
        )
        frames = kwargs.get(key)
        if frames is None:
            raise ValueError(
                f"LaVie's {config.stage} model got prompts without the frames it starts from; send positive and "
                f"negative through {node} first"
            )
        serves_all = config.stage == "base" and frames.shape[0] == 1  # the clip's first frame
        if not (serves_all or frames.shape[0] == noise.shape[0]) or frames.shape[2:] != noise.shape[2:]:
            raise ValueError(
                f"the conditioning is for {frames.shape[0]} frames of {frames.shape[3]} x {frames.shape[2]} latent "
                f"pixels, the latent has {noise.shape[0]} of {noise.shape[3]} x {noise.shape[2]}; use the latent that "
                f"{node} gives"
            )
        if upscaling:
            return self._on_device(frames, kwargs["device"])
        return self.process_latent_in(frames).to(kwargs["device"])

    def _on_device(self, frames: torch.Tensor, device) -> torch.Tensor:
        """Once for all conditions that hold the same frames: prompts of many tiles do."""
        key = (id(frames), device)
        placed = self._placed.get(key)
        if placed is None:
            placed = self._placed[key] = frames.to(device)
        return placed

    def extra_conds(self, **kwargs):
        texts = kwargs.get("cross_attn")
        if texts is not None:
            kwargs["cross_attn"] = texts = plain(texts)
        conds = super().extra_conds(**kwargs)
        if texts is not None:
            conds["c_crossattn"] = TextOfClip(texts)
            conds.setdefault("crossattn_controlnet", comfy.conds.CONDCrossAttn(texts))  # theirs is once per frame
        if NOISE_LEVEL in kwargs:
            conds["y"] = comfy.conds.CONDRegular(torch.tensor([kwargs[NOISE_LEVEL]], device=kwargs["device"]))
        return conds

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        kwargs.pop("crossattn_controlnet", None)
        options = {**(transformer_options or {}), COMPUTE_AGAIN: self._is_short_of_memory(x)}
        return super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _is_short_of_memory(self, x: torch.Tensor) -> bool:
        """Whether the device has no room for all that the network would rather keep than compute again."""
        held = PUBLISHED[self.model_config.lavie_config.stage].held_values_at_leisure
        needed = FOR_GPU_LIBRARIES * held * x[:, 0].numel() * self.get_dtype_inference().itemsize
        return needed > comfy.model_management.get_free_memory(x.device)


class UpscalerLatents(comfy.latent_formats.SD_X4):
    """Latents of the x4-upscaler's VAE, which has four pixels to a latent pixel."""

    spacial_downscale_ratio = 4


class LaVieModelConfig(comfy.supported_models.SD15):
    """Describes a LaVie UNet in the terms of ComfyUI's SD configuration."""

    sampling_settings = {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02}
    latent_format = comfy.latent_formats.SD15

    def __init__(self, config: UNetConfig, prediction: str):
        self.lavie_config = config
        self.prediction = prediction
        self.memory_usage_factor = FOR_GPU_LIBRARIES * PUBLISHED[config.stage].held_values / MEMORY_UNIT
        self.unet_extra_config = {"num_heads": config.num_heads, "num_head_channels": -1}
        if config.stage == "super_resolution":
            self.latent_format = UpscalerLatents
        super().__init__(_describe(config))

    def get_model(self, state_dict, prefix="", device=None):
        return LaVieModel(self, MODEL_TYPES[self.prediction], device=device)

    def inpaint_model(self):
        """Never: extra input channels, where a stage has them, are not an inpainting mask."""
        return False


def _describe(config: UNetConfig) -> dict:
    """The fields of ``unet_config`` that core code reads: LoRA key maps, FreeU, ControlNet, model merging."""
    levels = config.attention_levels
    layers = config.layers_per_block
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": config.block_channels[0],
        "channel_mult": [channels / config.block_channels[0] for channels in config.block_channels],
        "num_res_blocks": [layers] * len(levels),
        "transformer_depth": [int(level) for level in levels for _ in range(layers)],
        "transformer_depth_output": [int(level) for level in levels for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": config.context_dim,
        "use_linear_in_transformer": config.architecture.linear_projections,
        "adm_in_channels": None,
        "use_temporal_attention": True,
    }


def load_model(path: str, stage: str, model_options: dict | None = None, disable_dynamic: bool = False):
    """Read a UNet file of ``stage`` into a model patcher.

    Args:
        path: .safetensors, or .pt of plain tensors; published or ComfyUI names.
        model_options: ``{"dtype": torch dtype, "fp8_optimizations": bool}``, both optional, as core loaders take.
        disable_dynamic: ComfyUI asks for it when it reloads the file for cloning.

    Raises:
        CheckpointError: for any other file, naming what it is and which loader wants it.
    """
    options = model_options or {}
    file = open_model_file(path, stage)
    with building(path, "a UNet"):
        state_dict = unet_weights(file)
        inspect_weights(path, state_dict)
        model_config = LaVieModelConfig(file.unet.config, file.unet.prediction)
        preview.set_colors(model_config.latent_format, file.metadata)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    dtype = options.get("dtype") or comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state_dict),
        supported_dtypes=model_config.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(state_dict),
    )
    manual_cast = comfy.model_management.unet_manual_cast(dtype, load_device, model_config.supported_inference_dtypes)
    model_config.set_inference_dtype(dtype, manual_cast, device=load_device)
    model_config.optimizations["fp8"] = options.get("fp8_optimizations", False)

    model = model_config.get_model(state_dict)
    # Looked up at call time: ComfyUI's start-up may have put its dynamically loading patcher there.
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not comfy.model_management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.diffusion_model.load_state_dict(state_dict, strict=True, assign=patcher.is_dynamic())
    patcher.add_wrapper_with_key(
        comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, preview_server.EVENT, preview_server.while_sampling
    )
    patcher.cached_patcher_init = (load_model, (path, stage, model_options))
    follow_windows(patcher)
    return patcher
