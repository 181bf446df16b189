"""A campaign of bad prompts, bad files, interrupts and kills against a server with this pack: docs/reliability.md.

    python -P -m comfyui_lavie.tests.fuzz --prompts 10000 --files 5000 --interrupts 200 --kills 50 --runs 200
"""
