"""Every check of the project. `nox` runs the default ones, `nox -l` lists all."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import nox

MAIN = f"{sys.version_info.major}.{sys.version_info.minor}"
SUPPORTED = ("3.11", "3.12", "3.13")
PYTHONS = (MAIN, *(python for python in SUPPORTED if python != MAIN))
CELERY = ("5.5", "5.6", "5.7")
NEWEST = CELERY[-1]
GROUPS = nox.project.load_toml("pyproject.toml")

# The long runs have sessions of their own; the pages are run by `docs`, the guides from other
# libraries by `migration`, which installs those.
EVERYDAY = (
    "tests",
    "--ignore=tests/chaos",
    "--ignore=tests/docs",
    "--ignore=tests/migration",
    "-m",
    "not chaos and not property_long",
)
# Most tests wait for real servers and workers. A class stays with one process, and so do the
# functions of a file, as their workers do; the folder that takes longest is not put off to the end.
SIDE_BY_SIDE = ("-n", "8", "--dist", "loadscope", "--no-loadscope-reorder")
# What could differ from one Python or Celery to the next, without the long integration tests.
QUICKER = (*EVERYDAY[:-1], "hooks or not (integration or chaos or property_long)")

# What these modules test knows nothing of Celery: layers beneath it, and judgements of facts.
WITHOUT_CELERY = (
    "decisions",
    "demo_figures",
    "doctor_checks",
    "durations",
    "guard",
    "header",
    "house",
    "leases",
    "ledger",
    "limits",
    "memory",
    "once",
    "processes",
    "reservations",
    "retry_advice",
    "settings",
    "slots",
    "snapshots",
    "uniqueness",
    "why",
)

# Tests start hundreds of workers and commands. Where nothing may write bytecode, each of them would
# compile Celery and all that it stands on again: half of the time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # said in the summary, as "skipped"
nox.options.sessions = [
    "lint",
    "typing",
    "tests",
    *(f"celery({celery})" for celery in CELERY if celery != NEWEST),
    "docs",
    "package",
]

_wheels: list[Path] = []


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(GROUPS, name)


def wheel(session: nox.Session) -> Path:
    """Build the wheel once per run of nox, so that tests see what users install."""
    if not _wheels:
        folder = session.cache_dir / "wheel"  # `create_tmp` would move the temporary files of tests
        shutil.rmtree(folder, ignore_errors=True)
        session.run("uv", "build", "-q", "--wheel", "--out-dir", str(folder), silent=True)
        _wheels.extend(folder.glob("*.whl"))
    return _wheels[0]


def install(session: nox.Session, *groups: str, celery: str = NEWEST) -> None:
    """Install the wheel with its extras, one Celery with its kombu, and dependency groups."""
    session.install(
        f"{wheel(session)}[demo,testing]",
        "--reinstall-package=reliable-tasks",  # also over a wheel of the same version
        f"celery[redis]=={celery}.*",
        f"kombu=={celery}.*",
        *(requirement for name in groups for requirement in group(name)),
    )


def pytest(session: nox.Session, *default: str) -> None:
    """Run pytest on *default*, or on what stands behind `--`."""
    session.run("python", "-m", "pytest", *(session.posargs or default))


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, layers, spelling."""
    session.install(*group("lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "src"})
    session.run("codespell")


@nox.session
def fix(session: nox.Session) -> None:
    """Format, and mend what ruff can mend by itself."""
    session.install(*group("lint"))
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check src with mypy strict, and the public face with mypy and pyright."""
    install(session, "typing")
    session.run("mypy")
    for python in (SUPPORTED[0], SUPPORTED[-1]):
        session.run("mypy", "--python-version", python, "tests/typing")
        session.run("pyright", "--pythonversion", python)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All everyday tests on the Python that runs nox, the quicker ones on the others."""
    install(session, "tests")
    pytest(session, *SIDE_BY_SIDE, *(EVERYDAY if session.python == MAIN else QUICKER))


@nox.session
@nox.parametrize("celery", [nox.param(celery, id=celery) for celery in CELERY])
def celery(session: nox.Session, celery: str) -> None:
    """What speaks to Celery, on one Celery; stores, keys and traces do not."""
    install(session, "tests", celery=celery)
    elsewhere = (f"--ignore=tests/unit/test_{name}.py" for name in WITHOUT_CELERY)
    pytest(session, *SIDE_BY_SIDE, "tests/integration", "tests/unit", *elsewhere, *QUICKER[1:])


@nox.session
def chaos(session: nox.Session) -> None:
    """Long runs with faults: kills, pauses, fail-overs, clusters."""
    install(session, "tests")
    pytest(session, "tests/chaos", "tests/integration", "-m", "chaos")


@nox.session(name="property")
def properties(session: nox.Session) -> None:
    """Hypothesis with its long profile."""
    install(session, "tests")
    pytest(session, "tests/property", "--hypothesis-profile=long", "--timeout=3600")


@nox.session
def bench(session: nox.Session) -> None:
    """Print the table of benchmarks."""
    install(session, "tests")
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session
def storm(session: nox.Session) -> None:
    """Retry a thousand jobs in four ways while a service is down; `-- --write` draws it."""
    install(session, "tests", "pictures")
    session.run("python", "-m", "tests.storm", *session.posargs)


@nox.session
def screens(session: nox.Session) -> None:
    """Run a shop in which much goes wrong, and draw what the commands say into docs/images."""
    install(session, "tests")
    session.run("python", "-m", "tests.screens")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the docs with warnings as errors, and run every code block."""
    install(session, "tests", "docs")
    site = str(Path(session.create_tmp()) / "site")
    command = ("mkdocs", "build", "--quiet", "--strict", "--site-dir", site)
    session.run(*command, env={"NO_MKDOCS_2_WARNING": "1"})
    pytest(session, "-n", "4", "--maxschedchunk", "1", "tests/docs")


@nox.session
def migration(session: nox.Session) -> None:
    """Run one app under the libraries that teams come from, and ours; compare with the guides."""
    install(session, "tests", "migration")
    pytest(session, "-n", "3", "--dist", "loadgroup", "tests/migration")


@nox.session
def package(session: nox.Session) -> None:
    """Build, look inside, import in an empty environment, run the README's main line."""
    folder = Path(session.create_tmp()) / "package"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("uv", "build", "-q", "--out-dir", str(folder / "dist"), silent=True)
    session.run("python", "tests/package/check.py", str(folder))
