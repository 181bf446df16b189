"""A custom node of the tests' server: any value, behind a wildcard output, as other packs' nodes may send.

Contract: this file is copied into the server's custom_nodes as it is. `value` is JSON, NaN and Infinity included;
{"latent": shape}, {"image": shape}, {"sigmas": [...]}, {"audio": shape} stand for what ComfyUI means by them; a shape
may be {"shape": shape, "fill": number}.
"""

import faulthandler
import json
import signal

import torch

faulthandler.register(signal.SIGUSR1, all_threads=True)  # into the server's log


def _make(value):
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "sigmas":
        return torch.tensor(content, dtype=torch.float32)
    shape, fill = (content["shape"], content["fill"]) if isinstance(content, dict) else (content, 0.5)
    tensor = torch.full(shape, fill)
    if kind == "latent":
        return {"samples": tensor}
    return {"waveform": tensor, "sample_rate": 16000} if kind == "audio" else tensor


class TestValue:
    """The value that its text says."""

    RETURN_TYPES = ("*",)
    FUNCTION = "give"
    CATEGORY = "tests"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("STRING", {})}}

    def give(self, value):
        return (_make(json.loads(value)),)


NODE_CLASS_MAPPINGS = {"TestValue": TestValue}
