"""How the properties run: the same examples on every machine, and a blob to repeat a failure by."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No database: a run must not depend on a former one. No deadline: machines are shared.
STEADY = settings(
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
