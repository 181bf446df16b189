"""Data, training loops and measurements for LaVie; never imported by the nodes and importing no ComfyUI."""
