"""Graphs of the workflow files, built of the parts that all of them share.

Contract: `build_workflows` makes the content of every file from a running server's `/object_info`, `build_blueprint`
that of the subgraph.
"""

from __future__ import annotations

from typing import NamedTuple

from .workflow_graph import GREEN, RED, Output, WorkflowGraph
from .workflow_notes import note_text
from .workflow_subgraph import Exposed, blueprint
from .workflow_variants import (
    BASE_FPS,
    DENOISE,
    DOWNLOADS,
    EXAMPLE_SECONDS,
    EXAMPLE_VIDEO,
    FRAMES,
    INTERPOLATED_FPS,
    LONG_FRAMES,
    PUBLISHED,
    USES,
    VARIANTS,
    Stage,
    Variant,
)

TITLES = {"base": "Text to video", "interpolation": "Interpolation", "super_resolution": "Super-resolution"}
LOADERS = {
    "base": "LaVieBaseModelLoader",
    "interpolation": "LaVieInterpolationModelLoader",
    "super_resolution": "LaVieSuperResolutionModelLoader",
}


class Clip(NamedTuple):
    """A clip between two stages: frames or latent, or both; their rate; sound where there is some."""

    frames: Output | None
    latent: Output | None
    fps: Output | float
    audio: Output | None = None


class Recipe(WorkflowGraph):
    """A workflow in the making: one use of one variant."""

    def __init__(self, variant: Variant, use: str, object_info: dict, origins: dict[str, dict]):
        models = {name: download.entry(name) for name, download in DOWNLOADS.items()}
        super().__init__(f"{variant.prefix}_{use}", object_info, origins, models)
        self._variant, self._use, self._loaded = variant, use, {}

    def build(self) -> dict:
        """The note, what it starts from, then stage after stage."""
        self.note("About this workflow", note_text(self._variant, self._use))
        stages, from_video, longer_by = USES[self._use]
        clip = self._existing_video(resize=stages != ("super_resolution",)) if from_video else None
        repaint = from_video and stages == ("base",) and not longer_by
        prompt = self._variant.new_prompt if repaint else self._variant.prompt
        if len(stages) > 1:
            with self.group("Prompt"):
                prompt = self.add("PrimitiveStringMultiline", 380, 160, "Prompt", GREEN, value=prompt)["STRING"]
        for stage in stages:
            ending = "" if stage == stages[-1] else f"_{stage}"
            with self.group("Video to video" if repaint else "Longer" if clip and longer_by else TITLES[stage]):
                clip = getattr(self, f"_{stage}")(self._variant.stages[stage], prompt, clip, ending)
        return self.finish()

    # Stages: what they start from -> the clip that they make

    def _existing_video(self, resize: bool) -> Clip:
        with self.group("Existing video"):
            video = self.add("LoadVideo", 340, 380, file=EXAMPLE_VIDEO)["VIDEO"]
            self.column()
            video = self.add("Video Slice", video=video, duration=EXAMPLE_SECONDS)["VIDEO"]
            parts = self.add("GetVideoComponents", video=video)
            frames = parts["images"]
            if resize:
                size = {"width": self._variant.width, "height": self._variant.height}
                scaled = self.add("ImageScale", image=frames, upscale_method="lanczos", crop="center", **size)
                frames = scaled["IMAGE"]
        return Clip(frames, None, parts["fps"], parts["audio"])

    def _base(self, stage: Stage, prompt: Output | str, clip: Clip | None, ending: str) -> Clip:
        longer_by = USES[self._use].longer_by
        model, text_encoder, vae = self._load(stage, "base")
        if longer_by == "windows" or (clip is not None and not longer_by):
            model = self.add("LaVieContextWindows", 340, model=model, freenoise=clip is None)["MODEL"]
        self.column()
        positive, negative = self._encode(stage, text_encoder, prompt)
        if clip is None:
            frames = LONG_FRAMES if longer_by == "windows" else FRAMES
            size = {"width": self._variant.width, "height": self._variant.height, "frames": frames}
            latent = self.add("EmptyLaVieLatent", 380, **size)["LATENT"]
        else:
            latent = self.add("VAEEncode", 380, pixels=clip.frames, vae=vae)["LATENT"]
        if longer_by == "extension":
            latent = self._extend(stage, model, positive, negative, latent, sample_first=clip is None)
        else:
            latent = self._sample(stage, model, positive, negative, latent, 1.0 if clip is None else DENOISE)
        rest = (BASE_FPS, None) if clip is None else (clip.fps, clip.audio)
        return self._decode(Clip(None, latent, *rest), vae, ending)

    def _interpolation(self, stage: Stage, prompt: Output | str, clip: Clip, ending: str) -> Clip:
        model, text_encoder, vae = self._load(stage, "interpolation")
        model = self.add("LaVieContextWindows", 340, model=model)["MODEL"]
        self.column()
        positive, negative = self._encode(stage, text_encoder, prompt)
        self.column()
        source = {"frames": clip.frames, "vae": vae} if clip.latent is None else {"latent": clip.latent}
        given = self.add("LaVieInterpolationConditioning", 320, positive=positive, negative=negative, **source)
        fps = INTERPOLATED_FPS
        if isinstance(clip.fps, Output):
            values = {"expression": "4 * a", "values.a": clip.fps}
            fps = self.add("ComfyMathExpression", 320, title="Frames per second", **values)["FLOAT"]
        latent = self._sample(stage, model, given["positive"], given["negative"], given["latent"])
        return self._decode(Clip(None, latent, fps, clip.audio), vae, ending)

    def _super_resolution(self, stage: Stage, prompt: Output | str, clip: Clip, ending: str) -> Clip:
        model, text_encoder, vae = self._load(stage, "super_resolution")
        model = self.add("LaVieContextWindows", 340, model=model)["MODEL"]
        self.column()
        positive, negative = self._encode(stage, text_encoder, prompt)
        self.column()
        given = self.add(
            "LaVieSuperResolutionConditioning", 320, positive=positive, negative=negative, frames=clip.frames,
            seed=stage.sampling.seed,
        )  # fmt: skip
        latent = self._sample(stage, model, given["positive"], given["negative"], given["latent"])
        self.column()
        audio = {} if clip.audio is None else {"audio": clip.audio}
        video = self.add("LaVieDecodeToVideo", samples=latent, vae=vae, fps=clip.fps, **audio)["VIDEO"]
        self._save(video, ending)
        return Clip(None, latent, clip.fps, clip.audio)

    # Parts of stages

    def _load(self, stage: Stage, name: str) -> tuple[Output, Output, Output]:
        """(MODEL, CLIP, VAE); what an earlier stage has loaded is not loaded again."""
        wanted = (
            (LOADERS[name], "model_name", stage.model, "MODEL"),
            ("LaVieTextEncoderLoader", "text_encoder_name", stage.text_encoder, "CLIP"),
            ("LaVieVAELoader", "vae_name", stage.vae, "VAE"),
        )
        for loader, widget, file, output in wanted:
            if file not in self._loaded:
                self._loaded[file] = self.add(loader, 340, **{widget: file})[output]
        return tuple(self._loaded[file] for _, _, file, _ in wanted)

    def _encode(self, stage: Stage, clip: Output, prompt: Output | str) -> tuple[Output, Output]:
        """(positive, negative) conditioning."""
        if stage.prompt_end:
            ending = {"string_a": prompt, "string_b": stage.prompt_end}
            prompt = self.add("StringConcatenate", 380, title="Prompt and its ending", **ending)["STRING"]
        title = "CLIP Text Encode ({} Prompt)".format
        positive = self.add("CLIPTextEncode", 380, None, title("Positive"), GREEN, text=prompt, clip=clip)
        negative = self.add("CLIPTextEncode", 380, None, title("Negative"), RED, text=stage.negative, clip=clip)
        return positive["CONDITIONING"], negative["CONDITIONING"]

    def _sample(self, stage: Stage, model, positive, negative, latent: Output, denoise: float = 1.0) -> Output:
        """The sampled latent."""
        self.column()
        spacing, sampler_name, steps, guidance, seed = stage.sampling
        if spacing is None:
            return self.add(
                "KSampler", model=model, positive=positive, negative=negative, cfg=guidance, latent_image=latent,
                seed=seed, steps=steps, sampler_name=sampler_name, scheduler="normal", denoise=denoise,
            )["LATENT"]  # fmt: skip
        parts = self._sampling_parts(stage, model, positive, negative, denoise)
        self.column()
        return self.add("SamplerCustomAdvanced", 260, **parts, latent_image=latent)["output"]

    def _sampling_parts(self, stage: Stage, model, positive, negative, denoise: float = 1.0) -> dict[str, Output]:
        """Noise, guider, sampler and sigmas of custom sampling."""
        spacing, sampler_name, steps, guidance, seed = stage.sampling
        if spacing is None:
            sigmas = self.add("BasicScheduler", model=model, scheduler="normal", steps=steps, denoise=denoise)
        else:
            sigmas = self.add("LaVieScheduler", model=model, spacing=spacing, steps=steps, denoise=denoise)
        noise = self.add("RandomNoise", noise_seed=seed)
        sampler = self.add("KSamplerSelect", sampler_name=sampler_name)
        guider = self.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=guidance)
        return {
            "noise": noise["NOISE"], "guider": guider["GUIDER"], "sampler": sampler["SAMPLER"],
            "sigmas": sigmas["SIGMAS"],
        }  # fmt: skip

    def _extend(self, stage: Stage, model, positive, negative, latent: Output, sample_first: bool) -> Output:
        """The latent of a long video that goes on from a clip: the first one, sampled here, or one that there is."""
        self.column()
        parts = self._sampling_parts(stage, model, positive, negative)
        self.column()
        if sample_first:
            latent = self.add("SamplerCustomAdvanced", 300, title="First clip", **parts, latent_image=latent)["output"]
        return self.add("LaVieExtendVideo", 300, **parts, latent=latent, total_frames=LONG_FRAMES)["LATENT"]

    def _decode(self, clip: Clip, vae: Output, ending: str) -> Clip:
        """The clip with its frames, which are saved."""
        self.column()
        frames = self.add("VAEDecode", samples=clip.latent, vae=vae)["IMAGE"]
        audio = {} if clip.audio is None else {"audio": clip.audio}
        self._save(self.add("CreateVideo", images=frames, fps=clip.fps, **audio)["VIDEO"], ending)
        return clip._replace(frames=frames)

    def _save(self, video: Output, ending: str) -> None:
        """The node that writes the file and shows it; an ending tells which stage before the last made it."""
        use = "" if self._use == "text_to_video" else f"_{self._use}"
        prefix = f"video/{self._variant.prefix}{use}{ending}"
        self.add("SaveVideo", 400, 420, video=video, filename_prefix=prefix, format="mp4")


def build_workflows(object_info: dict, origins: dict[str, dict]) -> dict[str, dict]:
    """{file name without its suffix: workflow in UI format}, of every variant and use."""
    return {
        f"{variant.prefix}_{use}": Recipe(variant, use, object_info, origins).build()
        for variant in VARIANTS
        for use in USES
    }


BLUEPRINT = "LaVie text to video (cascade)"  # the file's name too: the browser shows it
BLUEPRINT_DESCRIPTION = (
    "LaVie's whole cascade from a prompt: a video, then four times as many frames, then four times as wide and high."
)


def build_blueprint(object_info: dict, origins: dict[str, dict]) -> dict:
    """The published cascade as a subgraph: what an artist changes outside, its VIDEO as output."""
    workflow = Recipe(PUBLISHED, "cascade", object_info, origins).build()
    of: dict[str, list[int]] = {}
    for node in workflow["nodes"]:
        of.setdefault(node["type"], []).append(node["id"])

    def first(label: str, class_type: str, widget: str, number: int = 0) -> Exposed:
        return Exposed(label, [(of[class_type][number], widget)])

    seeds = [(node, "noise_seed") for node in of["RandomNoise"]]
    exposed = [
        first("prompt", "PrimitiveStringMultiline", "value"),
        *(first(name, "EmptyLaVieLatent", name) for name in ("width", "height", "frames")),
        Exposed("seed", [*seeds, (of["LaVieSuperResolutionConditioning"][0], "seed")]),
        *(first(f"{stage}_model".replace("base_", ""), loader, "model_name") for stage, loader in LOADERS.items()),
        first("text_encoder", "LaVieTextEncoderLoader", "text_encoder_name"),
        first("super_resolution_text_encoder", "LaVieTextEncoderLoader", "text_encoder_name", 1),
        first("vae", "LaVieVAELoader", "vae_name"),
        first("super_resolution_vae", "LaVieVAELoader", "vae_name", 1),
    ]
    origin, result = origins["custom_nodes.lavie"], of["LaVieDecodeToVideo"][0]
    return blueprint(workflow, BLUEPRINT, BLUEPRINT_DESCRIPTION, origin, result, exposed)
