"""The generator of `workflows/` and `subgraphs/`: designs in Python, files for ComfyUI."""
