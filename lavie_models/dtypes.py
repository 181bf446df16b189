"""The number formats of weights and activations, under the names that commands, recipes and file names use."""

from __future__ import annotations

import torch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
