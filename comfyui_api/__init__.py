"""A ComfyUI server as a client sees it: started, given workflows, asked for what they made."""
