"""Programs that drive a real ComfyUI from outside, through its HTTP and websocket interface."""
