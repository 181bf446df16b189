"""Two real servers for tests of generating on several: that of all tests, and one more, booted once per test run."""

from __future__ import annotations

import pytest
from comfyui_lavie.comfyui_api.pool import Pool
from comfyui_lavie.comfyui_api.server import ComfyUIServer
from comfyui_lavie.comfyui_api.workers import started


class SharedServer:
    """The server of all tests as a worker, which neither starts nor ends it."""

    name = "the server of all tests"

    def __init__(self, server: ComfyUIServer):
        self.server = server

    def start(self):
        pass

    def ask(self, function, *arguments):
        return function(self.server, *arguments)

    def replace(self):
        raise AssertionError("nothing may happen to the server of all tests")

    def stop(self):
        pass


@pytest.fixture(scope="session")
def pair(comfyui, tmp_path_factory):
    """A pool of a server with an empty models folder of its own, and the server of all tests."""
    home = tmp_path_factory.mktemp("home")
    for folder in ("models", "input"):
        (home / folder).mkdir()
    with Pool([*started(1, home), SharedServer(comfyui.server)]) as pool:
        yield pool
