"""LaVie's networks in plain PyTorch; nothing here knows ComfyUI (``comfyui/`` inside does)."""

from .checkpoint import convert_state_dict
from .config import UNetConfig
from .unet import LaVieUNet

__all__ = ["LaVieUNet", "UNetConfig", "convert_state_dict"]
