"""Step between model and sampler: the noise levels at which the reference calls its networks."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..lavie_models.schedule import SPACINGS, TRAINED_STEPS, spacing, timesteps_to_sigmas
from .inputs import checked


def make_sigmas(trained: torch.Tensor, name: str, steps: int, start: int, end: int, denoise: float) -> torch.Tensor:
    """Noise levels of steps ``start`` .. ``end`` of a spacing, falling, float32.

    A run that reaches the last step ends at 0; one that ends earlier stops at the noise level at which the next
    would go on. As in core's BasicScheduler, ``denoise`` below 1 takes the last ``steps`` of a longer run.

    Args:
        trained: noise level of every trained timestep, (1000,) rising.

    Raises:
        ValueError: saying which number is out of range.
    """
    if denoise <= 0:
        return torch.empty(0)
    total = int(steps / denoise)
    if total > len(trained):
        raise ValueError(
            f"{steps} steps at denoise {denoise} are the end of {total} steps, but there are {len(trained)} trained "
            "timesteps; use fewer steps or a higher denoise"
        )
    sigmas = timesteps_to_sigmas(spacing(name, total), trained.cpu())
    sigmas = torch.cat((sigmas, sigmas.new_zeros(1)))[-(steps + 1) :]
    return sigmas[start : end + 1] if start < min(end, steps) else sigmas.new_empty(0)


class LaVieScheduler(io.ComfyNode):
    """The reference's timestep spacings as SIGMAS."""

    @classmethod
    def define_schema(cls):
        steps = {"min": 1, "max": TRAINED_STEPS}
        return io.Schema(
            node_id="LaVieScheduler",
            display_name="LaVie Scheduler",
            category="LaVie",
            description="Noise levels at which LaVie's published samplers call the network. The last level before 0 is "
            "about 0.015 for ddim (timestep 1) and 0.010 for the others (timestep 0).",
            search_aliases=["lavie", "sigmas", "timesteps", "ddim", "ddpm"],
            inputs=[
                io.Model.Input("model", tooltip="A LaVie MODEL; its noise schedule turns timesteps into noise levels."),
                io.Combo.Input(
                    "spacing",
                    options=list(SPACINGS),
                    default="ddim",
                    tooltip="Which timesteps are used. With 50 steps: ddim 981, 961 .. 1; ddpm 980, 960 .. 0; euler "
                    "999 .. 0 evenly, fractional; interpolation 999 .. 0 evenly, rounded. Choose the sampler "
                    "of that name beside it (interpolation goes with ddim). Published: ddpm, ddim or euler "
                    "for base, interpolation for interpolation, ddim for super-resolution.",
                ),
                io.Int.Input(
                    "steps", default=50, **steps, tooltip="Calls of the network. Published: 50; 20 to 30 often suffice."
                ),
                io.Int.Input(
                    "start_step", default=0, min=0, max=TRAINED_STEPS, advanced=True,
                    tooltip="First step to do, counted from 0; for runs divided among samplers.",
                ),
                io.Int.Input(
                    "end_step", default=TRAINED_STEPS, min=0, max=TRAINED_STEPS, advanced=True,
                    tooltip="The run stops before this step. If it is smaller than steps, the result still holds "
                    "noise for the sampler that continues.",
                ),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="1 starts from pure noise. A lower value keeps more of the given latent; the number of "
                    "steps stays the same.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    @checked
    def execute(cls, model, spacing, steps, start_step, end_step, denoise) -> io.NodeOutput:
        trained = getattr(model.get_model_object("model_sampling"), "sigmas", None)
        if trained is None or len(trained) != TRAINED_STEPS:
            got = "none" if trained is None else len(trained)
            raise ValueError(
                f"LaVie Scheduler needs a model with {TRAINED_STEPS} trained noise levels, got {got}; connect the "
                "MODEL of a LaVie loader, or use another scheduler for this model"
            )
        return io.NodeOutput(make_sigmas(trained, spacing, steps, start_step, end_step, denoise))
