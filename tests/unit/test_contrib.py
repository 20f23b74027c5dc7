"""Optional integrations say what they lack, and nobody loads them unasked."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(program: str) -> str:
    """Run *program* in a fresh interpreter, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("prometheus", "prometheus_client", "prometheus"),
        ("opentelemetry", "opentelemetry", "opentelemetry"),
    ],
)
def test_missing_library_is_named(module: str, library: str, extra: str) -> None:
    """Without its library an integration says which extra has it."""
    words = run(
        f"import sys; sys.modules[{library!r}] = None\n"
        f"try:\n    import reliable_tasks.contrib.{module}\n"
        "except ImportError as error:\n    print(error)"
    )

    assert words.endswith(f"pip install 'reliable-tasks[{extra}]'")


def test_nothing_is_loaded_unasked() -> None:
    """What is installed changes nothing by itself: a worker's modules load none of it."""
    program = (
        "import sys, reliable_tasks, reliable_tasks.worker, reliable_tasks.commands;"
        "print([name for name in ('prometheus_client', 'opentelemetry') if name in sys.modules])"
    )

    assert run(program) == "[]"
