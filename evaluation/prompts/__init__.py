"""What a model is asked for: sets of prompts that come with the package, and the user's own files."""

from .sets import SHIPPED, Prompt, PromptSet, load_prompts

__all__ = ["SHIPPED", "Prompt", "PromptSet", "load_prompts"]
