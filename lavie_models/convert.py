"""Published weights as half-size safetensors: `python -P -m comfyui_lavie.lavie_models.convert lavie_base.pt`.

Contract: reads any file of a LaVie UNet that the loaders read, without unpickling objects, and writes its weights under
ComfyUI's names, with metadata that says which network it is. What is written loads like the original; nothing is
overwritten unless asked, and a file appears whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from .checkpoint import unet_weights
from .dtypes import DTYPES
from .errors import CheckpointError
from .metadata import CONFIG, PREDICTION, STAGE
from .weights_file import inspect_weights, open_weights, write_weights


def default_target(source: Path, dtype: str) -> Path:
    """lavie_base.pt -> lavie_base_fp16.safetensors beside it."""
    return source.with_name(f"{source.stem}_{dtype}.safetensors")


def convert_file(source: str | Path, target: str | Path, dtype: str = "fp16", overwrite: bool = False) -> int:
    """Write ``target`` and return its size in bytes. ``dtype`` is one of DTYPES.

    Raises:
        FileExistsError: if ``target`` is there and ``overwrite`` is not set.
        CheckpointError: if the source is no LaVie UNet, or a weight is too large for the dtype.
    """
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"the new file's name must end in .safetensors, got {target.name}")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already; choose another name, or allow to overwrite it")
    file = open_weights(source)
    config, prediction = file.unet.config, file.unet.prediction
    weights = unet_weights(file)
    inspect_weights(source, weights)
    weights = {key: _cast(key, value, dtype) for key, value in weights.items()}
    about = {STAGE: config.stage, CONFIG: json.dumps(config.to_dict()), PREDICTION: prediction}
    return write_weights(target, weights, {**file.metadata, **about})


def _cast(key: str, value: torch.Tensor, dtype: str) -> torch.Tensor:
    cast = value.to(DTYPES[dtype])
    if not cast.isfinite().all():
        if not value.isfinite().all():
            raise CheckpointError(f"{key} holds NaN or infinity already in the source; get the file again")
        raise CheckpointError(f"{key} has values that {dtype} cannot hold; use bf16 or fp32")
    return cast


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="lavie_base.pt, lavie_interpolation.pt, lavie_vsr.pt or their like")
    parser.add_argument("target", type=Path, nargs="?", help="default: beside the source, named after it")
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp16")
    parser.add_argument("--overwrite", action="store_true", help="replace the target if it is there")
    args = parser.parse_args(argv)
    target = args.target or default_target(args.source, args.dtype)
    try:
        size = convert_file(args.source, target, args.dtype, args.overwrite)
    except (CheckpointError, OSError) as error:
        print(f"convert: {error}", file=sys.stderr)
        return 1
    print(f"{target}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
