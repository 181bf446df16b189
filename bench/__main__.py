"""Measurements of speed and memory: `python -P -m comfyui_lavie.bench COMMAND --help`."""

from __future__ import annotations

import sys

from ..commands import run_command

WHAT = "Measure speed and memory at published size."
COMMANDS = {  # name: (module with add_arguments and run, what it does)
    "forward": ("forward", "a stage beside diffusers' UNetMotionModel: time, FLOPs, memory"),
    "operators": ("operators", "where a forward's time goes, per kind of operator, against the arithmetic it does"),
    "attention": ("attention", "temporal attention by several kernels, and which is fastest"),
    "chunks": ("chunks", "a forward by the number of values that it works on at a time"),
    "load": ("load", "clips per second and core that the loader reads from H.264"),
    "memory": ("memory", "activations of each stage, and ComfyUI's memory_usage_factor"),
    "accept": ("accept.command", "this machine: numbers, speed, memory, training, the cascade; writes a page"),
    "scale": ("scale", "training: memory per GPU and steps per second for 1, 8 and 64 GPUs, computed"),
}
EXPECTED = (ValueError, FileNotFoundError, ImportError)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    return run_command(__package__, WHAT, COMMANDS, EXPECTED, argv)


if __name__ == "__main__":
    sys.exit(main())
