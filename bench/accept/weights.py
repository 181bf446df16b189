"""Published weights, where a folder of them is given: SHA-256, what each file is, whether all names and shapes fit."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...lavie_models.checkpoint import unet_weights
from ...lavie_models.errors import CheckpointError
from ...lavie_models.published import PUBLISHED
from ...lavie_models.weights_file import open_weights
from ...tables import markdown_table
from .setting import Setting

TITLE = "Published weights"
READS = ("models",)
SUFFIXES = (".pt", ".safetensors")


def measure(setting: Setting) -> dict:
    """{file: {"sha256", "kind", "fits"}}; nothing without a folder."""
    if setting.models is None:
        return {}
    files = sorted(path for path in setting.models.rglob("*") if path.suffix in SUFFIXES)
    return {str(path.relative_to(setting.models)): _file(path) for path in files}


def _file(path: Path) -> dict:
    with open(path, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    try:
        return {"sha256": digest, **_network(path)}
    except CheckpointError as error:
        return {"sha256": digest, "kind": "unreadable", "fits": str(error)}


def _network(path: Path) -> dict:
    """What the file is; a UNet's names and shapes are compared with those of the network of its configuration."""
    file = open_weights(path)
    if file.kind not in PUBLISHED:
        return {"kind": file.kind, "fits": "-"}
    unet_weights(file)  # raises where a name or a shape is not the network's
    return {"kind": file.kind, "fits": "as published" if file.unet.config == PUBLISHED[file.kind].config else "yes"}


def report(result: dict) -> str:
    """One row per file."""
    if not result:
        return "No folder of published weights was given (`--models FOLDER`)."
    rows = [(name, row["kind"], row["fits"], f"`{row['sha256']}`") for name, row in result.items()]
    return markdown_table(("file", "kind", "fits", "SHA-256"), rows, "llll")
