"""The base of what the training's commands report without a stack trace."""


class TrainingError(Exception):
    """Something about a recipe, a file or a run has to be changed; the message says what."""
