"""Figures of the small models that come with the pack: measured through a real ComfyUI, written into docs/nano.md.

Contract: each part (`vae`, `base`, `interpolation`, `super_resolution`, `lora`) has the same face, `parts.Part`. What
it measured is kept as JSON, so that parts can be measured on different days; `document` makes one page of what there
is. Nothing here knows the networks: clips go in, pixels come out.
"""
