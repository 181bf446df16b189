"""The front door of a room that has commands: `python -P -m comfyui_lavie.ROOM COMMAND --help`.

Contract: a command is a module with `add_arguments(parser)` and `run(arguments) -> exit status`; it is imported when it
is asked for. Errors whose message says what to do are printed without a stack trace.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys

NOISY = ("httpx", "urllib3", "accelerate")  # loggers that tell more than a user wants to read


def run_command(
    package: str, what: str, commands: dict[str, tuple[str, str]], expected: tuple[type[Exception], ...],
    argv: list[str] | None = None,
) -> int:  # fmt: skip
    """Run one command; returns the exit status.

    Args:
        package: the room, as an importable name. what: one sentence or more on the room.
        commands: {name: (module in the package, what it does)}.
        expected: exceptions whose message is enough.
    """
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    if name not in commands:
        width = max(map(len, commands))
        lines = [f"  {command:{width}}  {words}" for command, (_, words) in commands.items()]
        usage = f"usage: python -P -m {package} COMMAND ...\n\n{what}\n\n" + "\n".join(lines)
        usage += "\n\nCOMMAND --help tells more."
        asked = name in ("-h", "--help")
        print(usage if asked else f"unknown command {name}\n\n{usage}", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    module = importlib.import_module(f".{commands[name][0]}", package)
    parser = argparse.ArgumentParser(
        prog=f"python -P -m {package} {name}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(argv[1:])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        status = module.run(arguments)
        sys.stdout.flush()
        return status
    except expected as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # what reads the output has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on from what is done", file=sys.stderr)
        return 130
