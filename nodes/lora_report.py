"""What a LoRA file does to a model, key by key, as a text."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io, ui

from ..lavie_models.comfyui.lora_report import make_report
from ..lavie_models.weights_file import load_checkpoint
from .inputs import checked

FOLDER = "loras"


class LaVieLoraReport(io.ComfyNode):
    """Say which keys of a LoRA file a model takes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LaVieLoraReport",
            display_name="LaVie LoRA Report",
            category="LaVie",
            description="Lists what a LoRA does to a model: keys that match, keys that nothing takes, and those of "
            "layers that look across frames. Load the LoRA itself with core's Load LoRA.",
            search_aliases=["lavie", "lora", "lora keys", "lora info", "lora debug"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that the LoRA is meant for, before or after Load LoRA."),
                io.Combo.Input(
                    "lora_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="File from models/loras, in any format that core's Load LoRA reads.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The CLIP that the LoRA is meant for; without it text encoder keys are only counted.",
                ),
            ],
            outputs=[io.String.Output(tooltip="The report: counts first, then every key that is not used, by name.")],
        )

    @classmethod
    @checked
    def execute(cls, model, lora_name, clip=None) -> io.NodeOutput:
        lora = load_checkpoint(folder_paths.get_full_path_or_raise(FOLDER, lora_name))[0]
        report = str(make_report(lora, model.model, None if clip is None else clip.cond_stage_model))
        return io.NodeOutput(report, ui=ui.PreviewText(report))
