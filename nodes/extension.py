"""What the pack registers with ComfyUI: its nodes and the folder of small models that comes with it."""

from __future__ import annotations

import threading
from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from ..files import sweep
from ..lavie_models.comfyui import preview_server
from . import readout
from .color import LaVieColorCorrection
from .context_windows import LaVieContextWindows
from .convert import LaVieConvertCheckpoint
from .extend_video import LaVieExtendVideo
from .first_frame import LaVieFirstFrameConditioning
from .frame_prompts import LaVieFramePrompts
from .interpolation import LaVieInterpolationConditioning
from .latent import EmptyLaVieLatent
from .lora_report import LaVieLoraReport
from .model_loaders import LaVieBaseModelLoader, LaVieInterpolationModelLoader, LaVieSuperResolutionModelLoader
from .scheduler import LaVieScheduler
from .super_resolution import LaVieSuperResolutionConditioning
from .text_encoder import LaVieTextEncoderLoader
from .tiles import LaVieTiles
from .vae import LaVieVAELoader
from .video import LaVieDecodeToVideo

NODES = [
    LaVieBaseModelLoader,
    LaVieInterpolationModelLoader,
    LaVieSuperResolutionModelLoader,
    LaVieTextEncoderLoader,
    LaVieVAELoader,
    EmptyLaVieLatent,
    LaVieInterpolationConditioning,
    LaVieSuperResolutionConditioning,
    LaVieTiles,
    LaVieScheduler,
    LaVieContextWindows,
    LaVieDecodeToVideo,
    LaVieColorCorrection,
    LaVieLoraReport,
    LaVieFramePrompts,
    LaVieFirstFrameConditioning,
    LaVieExtendVideo,
    LaVieConvertCheckpoint,
]
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


class LaVieExtension(ComfyExtension):
    """The LaVie node pack."""

    async def on_load(self) -> None:
        for folder in ("diffusion_models", "text_encoders", "vae", "loras"):
            folder_paths.add_model_folder_path(folder, str(WEIGHTS / folder))
        preview_server.add_route()
        readout.add_routes()
        threading.Thread(target=_sweep_all, name="lavie_sweep", daemon=True).start()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


def _sweep_all() -> None:
    """What a killed ComfyUI left half-written: videos in its output, converted files among its models."""
    sweep(folder_paths.get_output_directory(), deep=True)
    for folder in folder_paths.get_folder_paths("diffusion_models"):
        sweep(folder)
