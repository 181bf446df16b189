"""What goes wrong with a file of weights."""


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message says what it is and what to do."""
