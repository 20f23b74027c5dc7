from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester", "reliable_tasks.testing.fixtures"]

# A busy machine is no failure; `--hypothesis-profile=long` is what `nox -s property` runs.
COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", COMMON, max_examples=100)
settings.register_profile("long", COMMON, max_examples=5_000, stateful_step_count=100)
settings.load_profile("default")
