"""The long campaign by command; prints its table.

    python -P -m comfyui_lavie.tests.fuzz --prompts 10000 --files 5000 --interrupts 200 --kills 50 --runs 200
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from comfyui_lavie.comfyui_api.server import ComfyUIServer
from comfyui_lavie.place import ROOT, find_comfyui

from .campaign import Campaign

ATTACKS = {"prompts": 10000, "files": 5000, "interrupts": 200, "kills": 50, "runs": 200}


def main(argv: list[str] | None = None) -> int:
    """Run the campaign; 1 if anything is raw or hangs by our fault, changed the good workflow or was left behind."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for attack, count in ATTACKS.items():
        parser.add_argument(f"--{attack}", type=int, default=count, help=f"how many; default {count}")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)  # what is done so far is printed
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "custom_nodes").mkdir()
        shutil.copy(ROOT / "tests" / "values_node.py", Path(folder) / "custom_nodes")
        with ComfyUIServer(find_comfyui(), folder) as server:
            campaign = Campaign(server, args.seed)
            try:
                for attack in ATTACKS:
                    if count := getattr(args, attack):
                        getattr(campaign, attack)(count)
            finally:
                print(campaign.table())
                print(f"seed {args.seed}, {time.monotonic() - began:.0f} s")
            return int(not campaign.is_clean())


if __name__ == "__main__":
    sys.exit(main())
