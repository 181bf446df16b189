"""What a saved video keeps: sound, the workflow that made it, and itself when a later stage fails."""

from __future__ import annotations

import io
import json
import time

import av
import numpy as np
import pytest
from comfyui_lavie.comfyui_api.graphs import WorkflowError, set_inputs, to_api
from comfyui_lavie.comfyui_api.server import ComfyUIServer
from comfyui_lavie.datasets.video import decode_video
from comfyui_lavie.place import NANO_WORKFLOWS

SOUND_RATE = 48000  # per second


def with_sound() -> bytes:
    """Four frames of 16 x 16 pixels, half a second, with a loud tone."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        picture, sound = container.add_stream("libx264", rate=8), container.add_stream("aac", rate=SOUND_RATE)
        picture.width = picture.height = 16
        picture.pix_fmt = "yuv420p"
        for _ in range(4):
            container.mux(picture.encode(av.VideoFrame(16, 16, "rgb24")))
        tone = np.sin(np.arange(SOUND_RATE // 2) * 0.05, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
        frame.sample_rate = SOUND_RATE
        container.mux(sound.encode(frame))
        for stream in (picture, sound):
            container.mux(stream.encode())
    return content.getvalue()


@pytest.mark.parametrize(
    ("use", "shape", "seconds"),
    [("upscale_video", (4, 64, 64, 3), 4 / 8), ("interpolate_video", (13, 16, 16, 3), 13 / 32)],
)
def test_sound_is_kept(comfyui, use, shape, seconds):
    """Enlarged and interpolated; the first is decoded while it is written."""
    comfyui.server.add_input("sound.mp4", with_sound())
    size = {} if use == "upscale_video" else {"width": 16, "height": 16}
    api = comfyui.workflow(f"lavie_nano_{use}.json", file="sound.mp4", steps=1, **size)
    made = comfyui.video_file(api)
    with av.open(io.BytesIO(made)) as container:
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert decode_video(made).shape == shape
    assert np.abs(heard).max() > 0.5
    assert heard.shape[1] / SOUND_RATE == pytest.approx(seconds, abs=0.05), "as long as the picture"


def finished(server: ComfyUIServer, prompt_id: str) -> dict:
    """The history entry of a queued workflow once it has ended."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if entry := server.get(f"/history/{prompt_id}").get(prompt_id):
            return entry
        time.sleep(0.2)
    pytest.fail("the workflow did not end")


def test_a_video_holds_the_workflow_that_made_it(comfyui):
    """Saved as the browser queues it: seed and settings lie in the file of LaVie Decode to Video."""
    graph = json.loads((NANO_WORKFLOWS / "lavie_nano_upscale_video.json").read_text(encoding="utf-8"))
    comfyui.server.add_input("sound.mp4", with_sound())
    api = set_inputs(to_api(graph, comfyui.object_info), file="sound.mp4", steps=1, seed=4711)
    wish = {"prompt": api, "extra_data": {"extra_pnginfo": {"workflow": graph}}}
    entry = finished(comfyui.server, comfyui.server.post("/prompt", wish)["prompt_id"])
    (output,) = (output for node in entry["outputs"].values() for output in node["images"])
    with av.open(io.BytesIO(comfyui.server.fetch(output))) as container:
        kept = {name: json.loads(container.metadata[name]) for name in ("prompt", "workflow")}
    for node in kept["prompt"].values():
        node.pop("is_changed", None)  # the server's own remark on files
    assert kept["prompt"] == api and kept["workflow"] == graph
    assert [node["inputs"]["seed"] for node in kept["prompt"].values() if "seed" in node["inputs"]] == [4711] * 2


@pytest.mark.parametrize("end", ["interrupted", "failed"])
def test_finished_stages_are_kept(comfyui, end):
    """The videos of base and interpolation are saved before super-resolution, which is interrupted or fails."""
    seed = {"interrupted": 501, "failed": 502}[end]
    api = comfyui.workflow("lavie_nano_cascade.json", width=32, height=32, frames=4, steps=2, seed=seed)
    (last,) = (i for i, n in api.items() if n["class_type"] == "KSampler" and _follows(api, i, "SuperResolution"))
    for node in api.values():
        if node["class_type"] == "SaveVideo":
            node["inputs"]["filename_prefix"] += f"_{end}"
    if end == "failed":
        decoder = next(node for node in api.values() if node["class_type"] == "LaVieDecodeToVideo")
        decoder["inputs"]["vae"] = next(n["inputs"]["vae"] for n in api.values() if n["class_type"] == "VAEDecode")
    else:
        api[last]["inputs"]["steps"] = 500

    def progress(node, _done, _total):
        if node == last and end == "interrupted":
            comfyui.server.interrupt()

    with pytest.raises(WorkflowError, match="interrupted" if end == "interrupted" else "pixels to a latent pixel"):
        comfyui.run(api, progress)
    videos = sorted((comfyui.server.base_directory / "output" / "video").glob(f"*{end}*.mp4"))
    assert [decode_video(video).shape for video in videos] == [(4, 32, 32, 3), (13, 32, 32, 3)]


def _follows(api: dict, node: str, stage: str) -> bool:
    """Whether a sampler's conditioning comes from a stage's own node."""
    return stage in api[api[node]["inputs"]["positive"][0]]["class_type"]
