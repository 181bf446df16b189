"""What is special about some workflows' base stage: frames that are held, prompts that change, LoRAs.

Contract: each function adds core nodes, or this pack's, to a graph in the making and returns what the sampler takes.
Their titles are those by which `stages.py` finds what an artist changes.
"""

from __future__ import annotations

from typing import NamedTuple

from .graph import GREEN, RED, Output, WorkflowGraph
from .templates import FRAMES, LCM_LORA, LORA

WHITE = 0xFFFFFF
FRAMES_WITHOUT, FRAMES_WITH = "Frames without the LoRA", "Frames with the LoRA"
MASK_EDGE = 64  # pixels of masks, which are scaled to the latent: they are alike everywhere in a frame
encode_title = "CLIP Text Encode ({} Prompt)".format


class Pictures(NamedTuple):
    """The images that a clip begins and ends with."""

    first: Output
    last: Output


def hold_frames(graph: WorkflowGraph, pictures: Pictures, vae: Output, size: dict[str, int]) -> Output:
    """A latent of FRAMES frames whose first and last are kept; those between start from the nearer of the two."""
    graph.column()
    halves = []
    for picture in pictures:
        scaled = graph.add("ImageScale", image=picture, upscale_method="lanczos", crop="center", **size)["IMAGE"]
        halves.append(graph.add("RepeatImageBatch", image=scaled, amount=FRAMES // 2)["IMAGE"])
    graph.column()
    frames = graph.add("ImageBatch", image1=halves[0], image2=halves[1])["IMAGE"]
    latent = graph.add("VAEEncode", pixels=frames, vae=vae)["LATENT"]
    held, free = (_plain_frames(graph, title, count, color) for title, count, color in
                  (("A frame that is held", 1, 0), ("Frames between", FRAMES - 2, WHITE)))  # fmt: skip
    graph.column()
    mask = graph.add("ImageBatch", image1=held, image2=free)["IMAGE"]
    mask = graph.add("ImageBatch", image1=mask, image2=held)["IMAGE"]
    mask = graph.add("ImageToMask", image=mask, channel="red")["MASK"]
    return graph.add("SetLatentNoiseMask", samples=latent, mask=mask)["LATENT"]


def change_prompts(
    graph: WorkflowGraph, text_encoder: Output, prompts: tuple[str, str], negative: str
) -> tuple[Output, Output]:
    """(positive, negative): one prompt at the first frame, the other at the last, blended between them."""
    schedule = f"0: {prompts[0]}\n{FRAMES - 1}: {prompts[1]}"
    values = {"clip": text_encoder, "schedule": schedule, "frames": FRAMES}
    changing = graph.add("LaVieFramePrompts", 380, 260, None, GREEN, **values)
    unwanted = graph.add("CLIPTextEncode", 380, None, encode_title("Negative"), RED, text=negative, clip=text_encoder)
    return changing["CONDITIONING"], unwanted["CONDITIONING"]


def lora_on_frames(
    graph: WorkflowGraph, text_encoder: Output, prompts: tuple[Output, Output], negative: str
) -> tuple[Output, Output]:
    """(positive, negative): the first half of the clip without the LoRA, the second half with it and its own prompt."""
    hooks = graph.add("CreateHookLora", 340, lora_name=LORA)["HOOKS"]
    hooked = graph.add("SetClipHooks", 340, clip=text_encoder, hooks=hooks, apply_to_conds=True)["CLIP"]
    before = _plain_frames(graph, FRAMES_WITHOUT, FRAMES // 2, 0)
    after = _plain_frames(graph, FRAMES_WITH, FRAMES // 2, WHITE)
    graph.column()
    both = graph.add("ImageBatch", image1=before, image2=after)["IMAGE"]
    with_lora = graph.add("ImageToMask", image=both, channel="red")["MASK"]
    without = graph.add("InvertMask", mask=with_lora)["MASK"]
    graph.column()
    pairs = []
    for clip, prompt, name in ((text_encoder, prompts[0], "{}"), (hooked, prompts[1], "LoRA's {}")):
        title = (encode_title(name.format(kind)) for kind in ("Positive", "Negative"))
        positive = graph.add("CLIPTextEncode", 380, None, next(title), GREEN, text=prompt, clip=clip)
        unwanted = graph.add("CLIPTextEncode", 380, None, next(title), RED, text=negative, clip=clip)
        pairs.append({"positive_NEW": positive["CONDITIONING"], "negative_NEW": unwanted["CONDITIONING"]})
    graph.column()
    first = graph.add("PairConditioningSetProperties", 340, **pairs[0], mask=without)
    given = {"positive": first["positive"], "negative": first["negative"]}
    joined = graph.add("PairConditioningSetPropertiesAndCombine", 340, **given, **pairs[1], mask=with_lora)
    return joined["positive"], joined["negative"]


def to_few_steps(graph: WorkflowGraph, model: Output) -> Output:
    """The MODEL with a distilled LoRA, sampled as consistency models are; the noise levels stay LaVie's."""
    model = graph.add("LoraLoaderModelOnly", 340, model=model, lora_name=LCM_LORA)["MODEL"]
    return graph.add("ModelSamplingDiscrete", 340, model=model, sampling="lcm")["MODEL"]


def _plain_frames(graph: WorkflowGraph, title: str, count: int, color: int) -> Output:
    """Frames of one colour, of which masks are made."""
    size = {"width": MASK_EDGE, "height": MASK_EDGE}
    return graph.add("EmptyImage", title=title, batch_size=count, color=color, **size)["IMAGE"]
