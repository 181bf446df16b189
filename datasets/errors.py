"""The one exception of this package."""


class DataError(ValueError):
    """Data, settings or a file of them cannot be used; the message says what, and what to do about it."""
