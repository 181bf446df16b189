"""A short campaign of a fixed seed: what the long one asks, in a minute; and what its judge makes of known endings."""

from __future__ import annotations

import pytest
from comfyui_lavie.tests.fuzz.campaign import Campaign
from comfyui_lavie.tests.fuzz.hang import told_by_stack
from comfyui_lavie.tests.fuzz.outcome import judge

SEED = 17


def status(node: str, *frames: tuple[str, str]) -> dict:
    """The history's status of a prompt that failed at a node, with a stack of (file, line of code)."""
    trace = [f'  File "{file}", line 1, in f\n    {line}\n' for file, line in frames]
    error = {"node_type": node, "exception_type": "E", "exception_message": "m", "traceback": trace}
    return {"messages": [["execution_start", {}], ["execution_error", error]]}


OURS, CORE, TORCH = "/c/custom_nodes/lavie/nodes/video.py", "/c/ComfyUI/nodes.py", "/v/site-packages/torch/nn.py"


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (status("LaVieVAELoader", (CORE, "run()"), (OURS, "raise ValueError(")), "told"),
        (status("LaVieVAELoader", (CORE, "run()"), (OURS, "x['a']")), "raw: ours"),
        (status("LaVieVAELoader", (OURS, "load()"), (TORCH, "raise RuntimeError(")), "raw: ours"),
        (status("LaVieVAELoader", (OURS, "load()"), (CORE, "raise RuntimeError(")), "raw: ours"),
        (status("KSampler", (CORE, "sample()"), (OURS, "raise ValueError(")), "told"),
        (status("KSampler", (CORE, "sample()"), (OURS, "conv(x)"), (TORCH, "raise RuntimeError(")), "raw: ours"),
        (status("KSampler", (CORE, "sample()"), (TORCH, "raise RuntimeError(")), "raw: core's"),
        ({"messages": [["execution_interrupted", {}]]}, "interrupted"),
        ({"messages": [["execution_success", {}]]}, "done"),
    ],
)
def test_judge(ending, kind):
    assert judge(ending).kind == kind


STACK = [("/v/site-packages/torch/nn.py", "1", "f"), (OURS, "2", "g"), (CORE, "3", "h")]


@pytest.mark.parametrize(
    ("stack", "kind"), [(STACK, "hang: ours"), (STACK[::2], "hang: core's"), ([], "hang: core's")]
)
def test_whose_hang(stack, kind):
    assert told_by_stack("no end", stack).kind == kind


def test_short_campaign(comfyui):
    campaign = Campaign(comfyui.server, SEED)
    campaign.prompts(30)
    campaign.files(40)
    campaign.interrupts(2)
    assert campaign.is_clean(), campaign.table()
    assert campaign.counts["prompts"]["told"] > 3 and campaign.counts["files"]["told"] > 20, campaign.table()
