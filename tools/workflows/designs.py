"""Graphs of the workflow files, built of the parts that all of them share.

Contract: `build_workflows` makes the content of every file from a running server's `/object_info`, `build_blueprint`
that of the subgraph.
"""

from __future__ import annotations

from typing import NamedTuple

from .graph import GREEN, RED, Output, WorkflowGraph
from .notes import note_text
from .stages import StagePart, fold_stages
from .subgraph import Exposed, blueprint
from .templates import (
    BASE_FPS,
    DENOISE,
    DOWNLOADS,
    EXAMPLE_PICTURE,
    EXAMPLE_SECONDS,
    EXAMPLE_VIDEO,
    FEW_STEPS,
    FRAMES,
    HOLDING,
    INTERPOLATED_FPS,
    LONG_FRAMES,
    LOOP_FRAMES,
    MEASURED,
    NANO,
    PUBLISHED,
    TEMPLATES,
    USES,
    ModelSet,
    Stage,
    Template,
    measured_name,
)
from .ways import Pictures, change_prompts, encode_title, hold_frames, lora_on_frames, to_few_steps

TITLES = {"base": "Text to video", "interpolation": "Interpolation", "super_resolution": "Super-resolution"}
DOES = {  # descriptions of the stages' subgraphs
    "base": "A short video from a prompt.",
    "interpolation": "Four times as many frames: three new ones between each two.",
    "super_resolution": "Four times as wide and high.",
}
LOADERS = {
    "base": "LaVieBaseModelLoader",
    "interpolation": "LaVieInterpolationModelLoader",
    "super_resolution": "LaVieSuperResolutionModelLoader",
}


class StageResult(NamedTuple):
    """What passes between two stages, a clip: frames or latent, or both; their rate; sound where there is some."""

    frames: Output | None
    latent: Output | None
    fps: Output | float
    audio: Output | None = None


class Design(WorkflowGraph):
    """A workflow in the making: one use of one model_set."""

    def __init__(self, model_set: ModelSet, use: str, object_info: dict, origins: dict[str, dict]):
        models = {name: download.entry(name) for name, download in DOWNLOADS.items()}
        super().__init__(f"{model_set.prefix}_{use}", object_info, origins, models)
        self._model_set, self._use, self._loaded = model_set, use, {}
        self._size = {"width": model_set.width, "height": model_set.height}
        self._pictures: Pictures | None = None

    def build(self, folded: bool = True) -> dict:
        """The note, what it starts from, stage after stage; ``folded``: those that follow on something as one node."""
        self.note("About this workflow", note_text(self._model_set, self._use))
        stages, start, way = USES[self._use]
        clip = self._existing_video(resize=stages != ("super_resolution",)) if start == "video" else None
        if start == "pictures":
            with self.group("First and last frame"):
                self._pictures = Pictures(*(self._picture(title) for title in ("First frame", "Last frame")))
        repaint = start == "video" and stages == ("base",) and not way
        prompt = self._model_set.new_prompt if repaint else self._model_set.prompt
        if len(stages) > 1 or way == "lora":
            with self.group("Prompt"):
                if way == "lora":
                    prompt = tuple(map(self._prompt, ("Prompt", "Prompt with the LoRA"), self._model_set.lora_prompts))
                else:
                    prompt = self._prompt("Prompt", prompt)
        parts = []
        for stage in stages:
            ending, before = "" if stage == stages[-1] else f"_{stage}", len(self._nodes)
            with self.group("Video to video" if repaint else "Longer" if clip and way else TITLES[stage]):
                clip = getattr(self, f"_{stage}")(self._model_set.stages[stage], prompt, clip, ending)
            members = set(range(before + 1, len(self._nodes) + 1))
            parts.append(StagePart(self._groups[-1]["title"], DOES[stage], members))
        flat = self.finish()
        if not folded or (len(parts) == 1 and start == "prompt" and way != "lora"):
            return flat
        return fold_stages(flat, parts, self._origins["custom_nodes.lavie"])

    def _prompt(self, title: str, text: str) -> Output:
        return self.add("PrimitiveStringMultiline", 380, 160, title, GREEN, value=text)["STRING"]

    def _picture(self, title: str) -> Output:
        return self.add("LoadImage", 340, 300, title, image=EXAMPLE_PICTURE)["IMAGE"]

    # Stages: what they start from -> the clip that they make

    def _existing_video(self, resize: bool) -> StageResult:
        with self.group("Existing video"):
            video = self.add("LoadVideo", 340, 380, file=EXAMPLE_VIDEO)["VIDEO"]
            self.column()
            video = self.add("Video Slice", video=video, duration=EXAMPLE_SECONDS)["VIDEO"]
            parts = self.add("GetVideoComponents", video=video)
            frames = parts["images"]
            if resize:
                scaled = self.add("ImageScale", image=frames, upscale_method="lanczos", crop="center", **self._size)
                frames = scaled["IMAGE"]
        return StageResult(frames, None, parts["fps"], parts["audio"])

    def _base(self, stage: Stage, prompt, clip: StageResult | None, ending: str) -> StageResult:
        """``prompt``: a text or an output; of a LoRA on some frames two, without and with it."""
        way = USES[self._use].way
        model, text_encoder, vae = self._load(stage, "base")
        if way in ("windows", "loop") or (clip is not None and not way):
            model = self.add("LaVieContextWindows", 340, model=model, freenoise=way == "windows", loop=way == "loop")
            model = model["MODEL"]
        if way == "few_steps":
            model, stage = to_few_steps(self, model), stage._replace(sampling=FEW_STEPS)
        self.column()
        if way == "prompts":
            texts = change_prompts(self, text_encoder, (prompt, self._model_set.new_prompt), stage.negative)
        elif way == "lora":
            texts = lora_on_frames(self, text_encoder, prompt, stage.negative)
        else:
            texts = self._encode(stage, text_encoder, prompt)
        latent, denoise = self._start(vae, clip)
        if way == "extension":
            latent = self._extend(stage, model, *texts, latent, sample_first=clip is None)
        else:
            latent = self._sample(stage, model, *texts, latent, denoise)
        rest = (BASE_FPS, None) if clip is None else (clip.fps, clip.audio)
        return self._decode(StageResult(None, latent, *rest), vae, ending)

    def _start(self, vae: Output, clip: StageResult | None) -> tuple[Output, float]:
        """The latent that the base stage starts from, and how much of it is to be sampled anew."""
        if clip is not None:
            return self.add("VAEEncode", 380, pixels=clip.frames, vae=vae)["LATENT"], DENOISE
        if self._pictures:
            return hold_frames(self, self._pictures, vae, self._size), HOLDING
        frames = {"windows": LONG_FRAMES, "loop": LOOP_FRAMES}.get(USES[self._use].way, FRAMES)
        return self.add("EmptyLaVieLatent", 380, **self._size, frames=frames)["LATENT"], 1.0

    def _interpolation(self, stage: Stage, prompt: Output | str, clip: StageResult, ending: str) -> StageResult:
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
        return self._decode(StageResult(None, latent, fps, clip.audio), vae, ending)

    def _super_resolution(self, stage: Stage, prompt: Output | str, clip: StageResult, ending: str) -> StageResult:
        model, text_encoder, vae = self._load(stage, "super_resolution")
        model = self.add("LaVieContextWindows", 340, model=model)["MODEL"]
        self.column()
        positive, negative = self._encode(stage, text_encoder, prompt)
        self.column()
        given = self.add(
            "LaVieSuperResolutionConditioning", 320, positive=positive, negative=negative, frames=clip.frames,
            seed=stage.sampling.seed, constant_noise=stage.constant_noise,
        )  # fmt: skip
        latent = self._sample(stage, model, given["positive"], given["negative"], given["latent"])
        self.column()
        audio = {} if clip.audio is None else {"audio": clip.audio}
        decoded = {"samples": latent, "vae": vae, "fps": clip.fps, "reference": clip.frames, **audio}
        video = self.add("LaVieDecodeToVideo", radius=stage.color_radius, **decoded)["VIDEO"]
        self._save(video, ending)
        return StageResult(None, latent, clip.fps, clip.audio)

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
        positive = self.add("CLIPTextEncode", 380, None, encode_title("Positive"), GREEN, text=prompt, clip=clip)
        negative = self.add("CLIPTextEncode", 380, None, encode_title("Negative"), RED, text=stage.negative, clip=clip)
        return positive["CONDITIONING"], negative["CONDITIONING"]

    def _sample(self, stage: Stage, model, positive, negative, latent: Output, denoise: float = 1.0) -> Output:
        """The sampled latent."""
        self.column()
        spacing, sampler_name, steps, guidance, seed, scheduler = stage.sampling
        if spacing is None:
            return self.add(
                "KSampler", model=model, positive=positive, negative=negative, cfg=guidance, latent_image=latent,
                seed=seed, steps=steps, sampler_name=sampler_name, scheduler=scheduler, denoise=denoise,
            )["LATENT"]  # fmt: skip
        parts = self._sampling_parts(stage, model, positive, negative, denoise)
        self.column()
        return self.add("SamplerCustomAdvanced", 260, **parts, latent_image=latent)["output"]

    def _sampling_parts(self, stage: Stage, model, positive, negative, denoise: float = 1.0) -> dict[str, Output]:
        """Noise, guider, sampler and sigmas of custom sampling."""
        spacing, sampler_name, steps, guidance, seed, scheduler = stage.sampling
        if spacing is None:
            sigmas = self.add("BasicScheduler", model=model, scheduler=scheduler, steps=steps, denoise=denoise)
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

    def _decode(self, clip: StageResult, vae: Output, ending: str) -> StageResult:
        """The clip with its frames, which are saved."""
        self.column()
        frames = self.add("VAEDecode", samples=clip.latent, vae=vae)["IMAGE"]
        audio = {} if clip.audio is None else {"audio": clip.audio}
        self._save(self.add("CreateVideo", images=frames, fps=clip.fps, **audio)["VIDEO"], ending)
        return clip._replace(frames=frames)

    def _save(self, video: Output, ending: str) -> None:
        """The node that writes the file and shows it; an ending tells which stage before the last made it."""
        use = "" if self._use == "text_to_video" else f"_{self._use}"
        prefix = f"video/{self._model_set.prefix}{use}{ending}"
        self.add("SaveVideo", 340, 320, video=video, filename_prefix=prefix, format="mp4")


def build_workflows(object_info: dict, origins: dict[str, dict]) -> dict[str, dict]:
    """{file name without its suffix: workflow in UI format}, of TEMPLATES and MEASURED."""
    designs = {**TEMPLATES, **{measured_name(use): Template(NANO, use) for use in MEASURED}}
    return {name: Design(model_set, use, object_info, origins).build() for name, (model_set, use) in designs.items()}


BLUEPRINT = "LaVie text to video (cascade)"  # the file's name too: the browser shows it
BLUEPRINT_DESCRIPTION = (
    "LaVie's whole cascade from a prompt: a video, then four times as many frames, then four times as wide and high."
)


def build_blueprint(object_info: dict, origins: dict[str, dict]) -> dict:
    """The published cascade as a subgraph: what an artist changes outside, its VIDEO as output."""
    workflow = Design(PUBLISHED, "cascade", object_info, origins).build(folded=False)
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
