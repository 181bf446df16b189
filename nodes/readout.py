"""What the browser's read-outs know: the published networks, this computer's precision, schedules of prompts."""

from __future__ import annotations

import json

import comfy.model_management
import comfy.supported_models_base
from aiohttp import web
from server import PromptServer

from ..lavie_models.comfyui.body import read_body
from ..lavie_models.published import PUBLISHED
from .frame_prompts import spans
from .inputs import MAX_FRAMES

STAGES, SCHEDULE = "/lavie/stages", "/lavie/schedule"
CONDITIONS = 2  # prompt and negative prompt at once
MAX_BYTES = 100_000  # of a schedule


def precision():
    """The torch.dtype in which ComfyUI computes a LaVie network here, unless it is told otherwise for a model."""
    device = comfy.model_management.get_torch_device()
    dtypes = comfy.supported_models_base.BASE.supported_inference_dtypes
    held = comfy.model_management.unet_dtype(device, supported_dtypes=dtypes)
    return comfy.model_management.unet_manual_cast(held, device, dtypes) or held


def stages() -> dict:
    """{stage: frames per second, window and overlap in frames, precision, and what sampling takes}.

    Sampling is that of one window with prompt and negative prompt, in bytes per frame and pixel.
    """
    dtype = precision()
    return {
        stage: {
            "rate": published.rate,
            "window": published.window,
            "overlap": published.overlap,
            "precision": str(dtype).removeprefix("torch."),
            "bytes_per_pixel": CONDITIONS
            * published.held_bytes(1, 1, 1, dtype.itemsize)
            / published.pixels_per_latent**2,
        }
        for stage, published in PUBLISHED.items()
    }


async def tell_stages(request: web.Request) -> web.Response:
    """GET: `stages` as JSON."""
    return web.json_response(stages())


async def tell_schedule(request: web.Request) -> web.Response:
    """POST {"schedule": text, "frames": number}: [{"first", "last", "prompt"}] of `spans`, or 400 with the reason."""
    try:
        body = await read_body(request, MAX_BYTES)
        if len(body) > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES} bytes")
        wish = json.loads(body.decode())
        schedule, frames = (wish.get(name) if isinstance(wish, dict) else None for name in ("schedule", "frames"))
        if not isinstance(schedule, str) or type(frames) is not int or not 1 <= frames <= MAX_FRAMES:
            raise ValueError(f'expected {{"schedule": text, "frames": 1 .. {MAX_FRAMES}}}')
        return web.json_response([span._asdict() for span in spans(schedule, frames)])
    except (ValueError, RecursionError) as error:
        return web.Response(status=400, text=str(error))


def add_routes() -> None:
    """Before the server adds its routes to the application, which is when custom nodes are loaded."""
    PromptServer.instance.routes.get(STAGES)(tell_stages)
    PromptServer.instance.routes.post(SCHEDULE)(tell_schedule)
