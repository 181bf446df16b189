"""Files that loader nodes read: one wording for every file that is of another kind than the node wants."""

from __future__ import annotations

from ..checkpoint import CheckpointError, identify, load_checkpoint

KINDS = {  # of `identify`: what an artist calls the file, and what loads it
    "base": ("LaVie's base network", "use Load LaVie Base Model"),
    "interpolation": ("LaVie's temporal interpolation network", "use Load LaVie Interpolation Model"),
    "super_resolution": ("LaVie's video super-resolution network", "use Load LaVie Super-Resolution Model"),
    "sd_checkpoint": ("a Stable Diffusion checkpoint (images, no temporal layers)", "use Load Checkpoint"),
    "sd_unet": ("an image UNet without temporal layers", "use Load Diffusion Model"),
    "text_encoder": ("a text encoder", "use Load LaVie Text Encoder"),
    "vae": ("a VAE", "use Load LaVie VAE"),
    "lora": ("a LoRA", "load the model it belongs to and add it with Load LoRA"),
    "unknown": ("no model that this pack knows", "check where the file comes from"),
}


def read_model_file(path: str, wanted: str):
    """(state dict, metadata) of a file of the kind ``wanted``, one of ``KINDS``.

    Raises:
        CheckpointError: for a file of another kind, naming what it is and which loader wants it; for a file that
            cannot be read, as `load_checkpoint` does.
    """
    state_dict, metadata = load_checkpoint(path)
    kind = identify(state_dict, metadata)
    if kind != wanted:
        what, loader = KINDS[kind]
        raise CheckpointError(f"{path} is {what}, but {KINDS[wanted][0]} is wanted here; {loader}")
    return state_dict, metadata
