"""The one exception of this room."""


class EvaluationError(ValueError):
    """Clips, a manifest or a request that cannot be used; the message says what, and what to do about it."""
