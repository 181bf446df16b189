"""How each LaVie network becomes a native ComfyUI object: MODEL, CLIP, VAE."""
