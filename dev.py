#!/usr/bin/env python3
"""One command sets everything up and runs it: `python dev.py demo`, `test`, `comfyui`, `bench` or `accept`.

Contract: standard library only, Python 3.10 or newer, any folder. Makes the environment complete (`environment.py`),
then runs the command inside `.venv`; a second run installs nothing and needs no network. What goes wrong ends in one
message that says what to do.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

if __package__:
    from .environment import disk_advice, set_up, venv_python
    from .place import ROOT, WORKFLOWS, SetupError, wait_for
else:  # run as a script, before anything is installed
    from environment import disk_advice, set_up, venv_python
    from place import ROOT, WORKFLOWS, SetupError, wait_for

DEMO_WORKFLOW = WORKFLOWS / "LaVie 02 Cascade - small models.json"
# All tests, a file at a time on each core; each of these processes has a ComfyUI server of its own.
ALL_TESTS = ["-q", "-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile", "--durations=40"]
PORTS = range(1, 65536)


def check_port(port: int) -> None:
    """Raise SetupError if there is no such port, or it is in use on this machine."""
    if port not in PORTS:
        raise SetupError(f"There is no port {port}: ports are 1 to {PORTS.stop - 1}. Choose another with --port.")
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SetupError(f"Port {port} cannot be used ({error.strerror}). Choose another with --port.") from None


def check_workflow(file: Path) -> None:
    """Raise SetupError unless `file` holds JSON, before minutes are spent on installing."""
    if not file.is_file():
        known = ", ".join(sorted(path.name for path in WORKFLOWS.glob("*.json")))
        raise SetupError(f"No workflow file {file}. Those that come with this pack, in workflows/: {known}.")
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{file} is not JSON ({error}). Save the workflow from ComfyUI again.") from None


def run_inside(comfyui: Path, module: str, arguments: list[str]) -> int:
    """Run a module in `.venv`; -P keeps this folder off sys.path, where it would hide ComfyUI's `nodes`."""
    command = [str(venv_python()), "-P", "-m", module, *arguments]
    return wait_for(subprocess.Popen(command, env={**os.environ, "COMFYUI_PATH": str(comfyui)}))


def main(argv: list[str] | None = None) -> int:
    """Parse `argv`, set up, run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser("demo", help="make a video through a real ComfyUI server, and a sheet of its frames")
    demo.add_argument("--prompt", help="what the video shows (default: the workflow's own prompt)")
    demo.add_argument("--workflow", type=Path, default=DEMO_WORKFLOW, help="file saved or exported by ComfyUI")
    demo.add_argument("--seed", type=int, help="seed of the noise (default: the workflow's own)")
    demo.add_argument("--out", type=Path, help="the .mp4 to write; the sheet lies beside it (default: under runs/demo)")
    commands.add_parser("test", help="run the tests; everything else is passed to pytest")
    server = commands.add_parser("comfyui", help="ComfyUI's server with this pack, for a browser")
    server.add_argument("--port", type=int, default=8188)
    commands.add_parser("bench", help="measure speed and memory; everything else is passed to the benchmark")
    commands.add_parser("accept", help="measure this machine and write a page on it; everything else is passed on")
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in ("test", "bench", "accept"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return run(args, rest)
    except SetupError as error:
        message = str(error)
    except OSError as error:
        message = f"{error}\n{disk_advice() or 'Check that this folder can be written to, then run this again.'}"
    except KeyboardInterrupt:
        return 130
    print(f"dev.py: {message}", file=sys.stderr)
    return 1


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Check the command's own arguments, set up, run it."""
    if args.command == "demo":
        check_workflow(args.workflow)
    if args.command == "comfyui":
        check_port(args.port)
    comfyui = set_up()
    if args.command == "test":
        os.chdir(ROOT)
        return run_inside(comfyui, "pytest", rest or ALL_TESTS)
    if args.command == "bench":
        return run_inside(comfyui, "comfyui_lavie.bench", rest or ["forward"])
    if args.command == "accept":
        return run_inside(comfyui, "comfyui_lavie.bench", ["accept", *rest])
    if args.command == "comfyui":
        return run_inside(comfyui, "comfyui_lavie.comfyui_api.server", ["--port", str(args.port)])
    options = {"--prompt": args.prompt, "--workflow": args.workflow, "--seed": args.seed, "--out": args.out}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return run_inside(comfyui, "comfyui_lavie.tools.demo", given)


if __name__ == "__main__":
    sys.exit(main())
