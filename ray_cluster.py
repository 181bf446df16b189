"""Ray, by which work goes to many machines: whoever needs it first connects this process to its cluster.

Contract: the cluster is the one that RAY_ADDRESS names, else one of this machine alone, which ends with this process.
"""

from __future__ import annotations

import logging

from .place import SetupError

ATTEMPTS = 3  # Ray gives its own processes 15 s to start, which cannot be changed and which a busy machine may miss

log = logging.getLogger(__name__)


def connect_ray(**options):
    """The module ray, connected; `options` of `ray.init`, if that is still to be done.

    Raises SetupError if Ray is not installed or does not start.
    """
    try:
        import ray
    except ImportError:
        raise SetupError("work on a cluster needs Ray, which is not installed: pip install -e '.[ray]'") from None
    for attempt in range(1, ATTEMPTS + 1):
        if ray.is_initialized():
            break
        try:
            ray.init(include_dashboard=False, logging_level="warning", log_to_driver=False, **options)
        except Exception as error:  # it raises nothing narrower when it was too slow
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise SetupError(f"Ray did not start in {ATTEMPTS} attempts: {error}") from None
            log.warning("Ray did not start (%s); trying again", error)
    return ray
