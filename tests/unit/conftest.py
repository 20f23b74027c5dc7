from __future__ import annotations

import pytest
from celery import _state


@pytest.fixture(autouse=True)
def no_tasks_of_others(apps_of_one_test: None) -> None:
    """
    Apps have no tasks but their own.

    Which modules of shared tasks a process has loaded depends on how the tests are distributed.
    """
    own = {each for each in _state._on_app_finalizers if each.__module__ == "celery.app.builtins"}
    _state._on_app_finalizers.intersection_update(own)
