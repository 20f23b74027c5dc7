"""Run a piece of a test in a forked process."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from typing import Any


def in_child(function: Callable[[], Any]) -> Any:
    """Return what *function* returns, or the `repr` of what it raises, in a forked process."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, since Python 3.12
        child = os.fork()
    if child == 0:
        try:
            answer = function()
        except BaseException as exc:
            answer = repr(exc)
        os.write(writable, pickle.dumps(answer))
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        answer = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    return answer
