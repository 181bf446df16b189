"""How fast and how frugal each stage's UNet is, next to diffusers' UNetMotionModel: ``python dev.py bench``.

Both networks run at published width with random weights (speed does not depend on their values), on the same latents,
timestep and text, without gradients and without network access, each in a process of its own. Files: ``subjects``
builds them, ``measure`` measures one, ``__main__`` runs both side by side and prints the table.
"""
