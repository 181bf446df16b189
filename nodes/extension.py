"""What the pack registers with ComfyUI: its nodes and the folder of small models that comes with it."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .context_windows import LaVieContextWindows
from .convert import LaVieConvertCheckpoint
from .extend_video import LaVieExtendVideo
from .first_frame import LaVieFirstFrameConditioning
from .frame_prompts import LaVieFramePrompts
from .interpolation import LaVieInterpolationConditioning
from .latent import EmptyLaVieLatent
from .lora_report import LaVieLoraReport
from .model_loaders import LaVieBaseModelLoader, LaVieInterpolationModelLoader, LaVieSuperResolutionModelLoader
from .previews import add_route
from .scheduler import LaVieScheduler
from .super_resolution import LaVieSuperResolutionConditioning
from .text_encoder import LaVieTextEncoderLoader
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
    LaVieScheduler,
    LaVieContextWindows,
    LaVieDecodeToVideo,
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
        add_route()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
