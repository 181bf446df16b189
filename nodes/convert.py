"""Once, before the first step: a published checkpoint as a half-size safetensors file."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..lavie_models.convert import DTYPES, convert_file, default_target
from .inputs import checked
from .model_loaders import find_model, list_models
from .notices import readable_bytes, tell

FOLDER = "diffusion_models"


def target_path(source: str, file_name: str, dtype: str) -> Path:
    """Where the new file goes: ComfyUI's own folder of diffusion models. Raises ValueError for a name with a folder."""
    name = file_name.strip() or default_target(Path(source), dtype).name
    if Path(name).name != name or "\\" in name:
        raise ValueError(f"file_name must be a plain name without folders, got {file_name!r}")
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(FOLDER)]
    folder = next((folder for folder in folders if folder.name == FOLDER), folders[0])
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (name if name.endswith(".safetensors") else f"{name}.safetensors")


class LaVieConvertCheckpoint(io.ComfyNode):
    """Write a listed LaVie checkpoint anew as safetensors."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieConvertCheckpoint",
            display_name="Convert LaVie Checkpoint",
            category="LaVie",
            description="Writes a LaVie network, such as a published .pt, as a safetensors file into "
            "models/diffusion_models: half the size in fp16, faster to load, nothing in it that could run. Run it "
            "once; then choose the new file in the loader (press R to refresh its list).",
            search_aliases=["lavie", "convert", "safetensors", "fp16", "checkpoint", "pt"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "model_name", options=list_models(),
                    tooltip="The file to convert, from models/diffusion_models or models/checkpoints; it is kept.",
                ),
                io.Combo.Input(
                    "dtype", options=list(DTYPES), default="fp16",
                    tooltip="Data type of the new file's weights. fp16 suits all published networks; fp32 keeps every "
                    "bit.",
                ),
                io.String.Input(
                    "file_name", default="",
                    tooltip="Name of the new file, without folder. Empty: the old name with the dtype behind it.",
                ),
                io.Boolean.Input(
                    "overwrite", default=False, tooltip="Replace a file of that name. Off: refuse, and leave it alone."
                ),
            ],
            outputs=[io.String.Output(display_name="file_name", tooltip="Name of the new file.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, model_name, dtype, file_name, overwrite) -> io.NodeOutput:
        target = target_path(model_name, file_name, dtype)
        size = convert_file(find_model(model_name), target, dtype, overwrite)
        tell(cls, f"{target.name}: {readable_bytes(size)}")
        return io.NodeOutput(target.name)
