"""A ComfyUI server as parts of the acceptance start it: in a folder of its own, on the models that are given."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...comfyui_api.server import ComfyUIServer, link
from ...place import find_comfyui
from .setting import Setting


@contextmanager
def serving(setting: Setting, arguments: tuple[str, ...] = ()) -> Iterator[ComfyUIServer]:
    """A running server with ComfyUI's own ``arguments``; what it writes goes with it."""
    device = ("--cpu",) if setting.device == "cpu" else ()
    with tempfile.TemporaryDirectory() as folder:
        if setting.models:
            link(Path(folder) / "models", setting.models.resolve())
        with ComfyUIServer(find_comfyui(), folder, extra_args=(*device, *arguments)) as server:
            yield server
