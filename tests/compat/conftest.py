"""The compatibility table: rows are markers on tests, and a row is written only if its test passes.

    @pytest.mark.core("LoraLoader", stage="base", works=True, note="...")

`python -P -m pytest tests/compat --write-table` runs the tests and writes docs/compatibility.md. See table.py.
"""

from __future__ import annotations

import pytest
from comfyui_lavie.tests.compat import table

# What needs ComfyUI is imported in the fixtures: ComfyUI becomes importable after this file is read.


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help="write docs/compatibility.md if all tests pass")


def pytest_configure(config):
    config.addinivalue_line("markers", "core(node, stage=..., works=True, note=''): a row of the compatibility table")


def pytest_sessionfinish(session, exitstatus):
    if not session.config.getoption("--write-table"):
        return
    if exitstatus != 0 or not table.is_complete(session):
        pytest.exit("the table was not written: run all of tests/compat, and let every test pass", returncode=1)
    table.FILE.write_text(table.render(table.rows(session.items)), encoding="utf-8")


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder for model files; LoRAs and ControlNets in it are found by core's loaders."""
    import folder_paths

    folder = tmp_path_factory.mktemp("models")
    for kind in ("loras", "controlnet", "checkpoints", "diffusion_models"):
        folder_paths.add_model_folder_path(kind, str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_files(files):
    """{stage: file} of tiny models with random weights."""
    from comfyui_lavie.tests.compat.kit import TINY, save_unet

    return {name: save_unet(files / f"tiny_{name}.safetensors", config) for name, config in TINY.items()}


@pytest.fixture(scope="session")
def wide_file(files):
    from comfyui_lavie.tests.compat.kit import WIDE, save_unet

    return save_unet(files / "wide_base.safetensors", WIDE)


@pytest.fixture
def tiny(tiny_files):
    """Loads a tiny model anew, by its name in kit.TINY."""
    from comfyui_lavie.lavie_models.comfyui.model import load_model
    from comfyui_lavie.tests.compat.kit import TINY

    return lambda name, options=None: load_model(str(tiny_files[name]), TINY[name].stage, options)


@pytest.fixture
def model(tiny):
    """The tiny base."""
    return tiny("base")


@pytest.fixture
def wide(wide_file):
    """One level at SD 1.x's width, for what is published for SD 1.x."""
    return _load(wide_file)


@pytest.fixture
def nano():
    """The trained nano base."""
    from comfyui_lavie.tests.compat.kit import WEIGHTS

    return _load(WEIGHTS / "diffusion_models" / "lavie_nano_base.safetensors")


@pytest.fixture
def clip():
    """The text encoder that comes with the pack."""
    from comfyui_lavie.lavie_models.comfyui.text_encoder import load_text_encoder
    from comfyui_lavie.tests.compat.kit import WEIGHTS

    return load_text_encoder(str(WEIGHTS / "text_encoders" / "lavie_nano_text_encoder.safetensors"))


def _load(file):
    from comfyui_lavie.lavie_models.comfyui.model import load_model

    return load_model(str(file), "base")
