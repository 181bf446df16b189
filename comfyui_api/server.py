"""A real ComfyUI server with this node pack, as a process of this machine: started, used and stopped.

Contract: `with ComfyUIServer(comfyui_path, base_directory) as server:` boots ComfyUI headless with `base_directory` as
its own (models, input, output, user, log) and this pack as a custom node; it is then a `Client` of it. The process ends
with this one, however this one ends. As a command it serves in the foreground:

    python -P -m comfyui_lavie.comfyui_api.server --port 8188
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import torch

from ..place import ROOT, SetupError, find_comfyui, wait_for
from .client import Client, ServerError
from .keeper import GRACE_S

KEEPER = Path(__file__).with_name("keeper.py")
START_TIMEOUT_S = 600
STOP_TIMEOUT_S = GRACE_S + 5
LOG_TAIL_LINES = 40


class ComfyUIServer(Client):
    """One server process.

    Args:
        port: None takes a free one.
        extra_args: ComfyUI's own command-line options.
        environment: variables added to this process's, such as CUDA_VISIBLE_DEVICES.
    """

    def __init__(
        self, comfyui_path: Path | str, base_directory: Path | str, port: int | None = None, extra_args: tuple = (),
        environment: dict[str, str] | None = None,
    ):  # fmt: skip
        self.port = port or free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.comfyui_path = Path(comfyui_path)
        self.base_directory = Path(base_directory).resolve()
        self.extra_args = tuple(map(str, extra_args))
        self.environment = environment or {}
        self.log_path = self.base_directory / "server.log"
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> ComfyUIServer:
        self.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.stop()

    def start(self) -> None:
        """Boot and wait until the server answers. Raises ServerError."""
        options = ("--disable-api-nodes", *self.extra_args)
        command = server_command(self.comfyui_path, self.base_directory, self.port, options)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(KEEPER), *command], cwd=self.comfyui_path, stdin=subprocess.PIPE,
                stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, by force if it does not end by itself; harmless if it has ended."""
        if self._process is None:
            return
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_TIMEOUT_S)
        self.kill()  # whatever it left behind
        self._process = None

    def kill(self) -> None:
        """End the process and whatever it started at once, without a chance to end in good order."""
        with contextlib.suppress(ProcessLookupError):
            if os.name == "nt":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        """Of the process that was started; the server itself is a child of it."""
        return self._process.pid

    def add_input(self, name: str, content: bytes) -> None:
        """Put a file where the loaders of images and videos look for it."""
        (self.base_directory / "input" / name).write_bytes(content)

    def clear_previews(self) -> None:
        """Delete the files that Preview Image has written so far, which ComfyUI keeps until its next start."""
        for file in (self.base_directory / "temp").glob("*.png"):
            file.unlink(missing_ok=True)

    def _wait_until_ready(self, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers(process):
            if process.poll() is not None:
                raise self._failure(f"ended with status {process.returncode} on start")
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {START_TIMEOUT_S} s")
            time.sleep(0.2)
        log = self.log_path.read_text(encoding="utf-8", errors="replace")
        if any("(IMPORT FAILED)" in line and line.rstrip().endswith("lavie") for line in log.splitlines()):
            raise self._failure("could not load this node pack")

    def _answers(self, process: subprocess.Popen) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5):
                return process.poll() is None  # else it is another server that has the port
        except OSError:
            return False

    def _failure(self, what: str) -> ServerError:
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:  # never started, or stopped and cleared away
            return super()._failure(what)
        tail = "\n".join(f"    {line}" for line in lines)
        return ServerError(f"{super()._failure(what)}. Its log, {self.log_path}, ends:\n{tail}")


def server_command(comfyui_path: Path, base_directory: Path, port: int, extra_args: tuple = ()) -> list[str]:
    """The command line of a server with this pack, whose base directory is made ready for it."""
    link(base_directory / "custom_nodes" / "lavie", ROOT)
    for folder in ("models", "input", "output", "user"):
        (base_directory / folder).mkdir(exist_ok=True)
    device = () if torch.accelerator.is_available() else ("--cpu",)
    database = f"sqlite:///{base_directory / 'user' / 'comfyui.db'}"  # its default lies in ComfyUI's own folder
    options = ("--disable-auto-launch", "--port", str(port), "--base-directory", str(base_directory))
    return [sys.executable, "main.py", *device, *options, "--database-url", database, *extra_args]


def borrow(base_directory: Path, home: Path) -> None:
    """Give a base directory the models, inputs and custom nodes of another one, by links; outputs stay apart."""
    for folder in ("models", "input"):
        if (home / folder).is_dir():
            link(base_directory / folder, home / folder)
    nodes = home / "custom_nodes"
    for entry in sorted(nodes.iterdir()) if nodes.is_dir() else ():
        if entry.is_dir() and entry.name != "__pycache__" and entry.resolve() != ROOT:
            link(base_directory / "custom_nodes" / entry.name, entry)


def link(path: Path, folder: Path) -> None:
    """Make `path` point to a folder, by a symbolic link or, on Windows, a junction, which needs no privilege."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.resolve() == folder.resolve():
        return
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(folder), str(path))
    else:
        path.unlink(missing_ok=True)
        path.symlink_to(folder, target_is_directory=True)


def free_port() -> int:
    """A port of this machine that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> int:
    """Serve in the foreground until interrupted."""
    parser = argparse.ArgumentParser(description="ComfyUI's server with this pack, in the foreground.")
    parser.add_argument("--port", type=int, default=8188)
    port = parser.parse_args().port
    base = ROOT / "runs" / "comfyui"
    try:
        comfyui = find_comfyui()
    except SetupError as error:
        sys.exit(str(error))
    command = server_command(comfyui, base, port)
    print(f"Models, input and output are in {base}. Open http://127.0.0.1:{port} once it says so; Ctrl+C ends it.")
    return wait_for(subprocess.Popen(command, cwd=comfyui))


if __name__ == "__main__":
    sys.exit(main())
