"""Long video on a server.

The workflows' own graphs in a real ComfyUI server: a first-frame file, an interruption, a prompt that travels.
"""

import shutil

import numpy as np
import pytest
from comfyui_lavie.comfyui_api.graphs import saved_files
from comfyui_lavie.datasets.video import decode_video
from comfyui_lavie.lavie_models import UNetConfig
from comfyui_lavie.nano.measure import measure_clip
from comfyui_lavie.tests.compat.kit import save_unet
from comfyui_lavie.tools.workflows.thumbnails import make_examples


def node_of(api: dict, class_type: str) -> tuple[str, dict]:
    """(id, node) of the only node of a type."""
    ((number, node),) = ((number, node) for number, node in api.items() if node["class_type"] == class_type)
    return number, node


@pytest.mark.core("workflow extend_video with a first-frame-conditioned base")
def test_first_frame_model_goes_on_from_a_video(comfyui, tmp_path):
    """Random weights: frames are noise, but every clip gets its first frame and the video its length."""
    make_examples(comfyui.server)
    config = UNetConfig.base(
        in_channels=8, block_channels=(32, 32), attention_levels=(True, True), num_heads=1, layers_per_block=1,
        context_dim=64,
    )  # fmt: skip
    folder = comfyui.server.base_directory / "models" / "diffusion_models"
    folder.mkdir(exist_ok=True)
    shutil.move(save_unet(tmp_path / "first_frame.safetensors", config), folder / "first_frame.safetensors")
    api = comfyui.workflow(
        "lavie_nano_extend_video.json", model_name="first_frame.safetensors", steps=2, duration=0.5, total_frames=9,
        clip_frames=4, overlap=1,
    )  # fmt: skip
    assert comfyui.video(api).shape == (9, 64, 64, 3)


@pytest.mark.core(
    "LaVieExtendVideo interrupted", note="The finished clips come out, and the workflow goes on with them."
)
def test_interruption_keeps_the_finished_clips(comfyui):
    api = comfyui.workflow("lavie_nano_long_video_extended.json", steps=4)  # of which a clip takes three
    number, _ = node_of(api, "LaVieExtendVideo")
    seen = []

    def interrupt_in_the_second_clip(node, done, total):
        if node == number:
            seen.append((done, total))
            if done == 4:
                comfyui.server.interrupt()

    frames = run_video(comfyui, api, interrupt_in_the_second_clip)
    assert frames.shape[0] == 28, "16 and one extension by 12"
    assert {total for _, total in seen} == {6}, "progress is over both clips"


def run_video(comfyui, api, progress) -> np.ndarray:
    """The frames of the .mp4 that a run saves, with its progress followed."""

    (entry,) = saved_files(comfyui.run(api, progress), ".mp4")
    return decode_video(comfyui.server.fetch(entry))


@pytest.mark.core("LaVieFramePrompts on the nano model: a red thing that becomes blue")
def test_prompt_travels_along_the_clip(comfyui):
    """The first frames show the first prompt's colour, the last ones the last prompt's."""
    api = comfyui.workflow("lavie_nano_text_to_video.json", seed=1)
    number, sampler = node_of(api, "KSampler")
    encode = api[sampler["inputs"]["positive"][0]]
    schedule = "0: a red square moving right\n7: a red square moving right\n8: a blue square moving right"
    api["travel"] = {
        "class_type": "LaVieFramePrompts",
        "inputs": {"clip": encode["inputs"]["clip"], "schedule": schedule, "frames": 16},
    }
    api[number]["inputs"]["positive"] = ["travel", 0]
    frames = comfyui.video(api)
    assert (measure_clip(frames[:8]).color, measure_clip(frames[8:]).color) == ("red", "blue")
