"""Does it work on this machine, how fast, in how much memory: ``python dev.py accept``.

Contract: a part is a module with ``TITLE``, ``measure(setting) -> dict`` (JSON-ready, under ten minutes on a GPU),
``report(result) -> str`` (Markdown) and ``READS``, the fields of the setting, beside those that name the page, on which
its result depends. Parts know nothing of each other; ``command`` runs those whose results are not there yet, keeps each
as JSON at once, and writes the page of the machine from all there are.
"""
