"""Check what was built: `python check.py FOLDER`, with wheel and sdist in FOLDER/dist."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
MARK = "<!-- run by: nox -s package -->\n```sh\n"


def main() -> None:
    """Check the wheel's files, an install without extras, and the README's main line."""
    folder = Path(sys.argv[1]).resolve()
    (wheel,) = folder.glob("dist/*.whl")
    (sdist,) = folder.glob("dist/*.tar.gz")
    check_files(wheel)
    with ThreadPoolExecutor() as pool:
        checks = [
            pool.submit(check_import, wheel, folder / "bare"),
            pool.submit(run_main_line, sdist, folder / "source"),
        ]
    for check in checks:
        check.result()


def check_files(wheel: Path) -> None:
    """The wheel holds what src holds: the Lua scripts and the typing marker above all."""
    source = PROJECT / "src"
    wanted = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if packed != wanted:
        raise SystemExit(f"in src or in the wheel only: {sorted(packed ^ wanted)}")
    if not any(name.endswith(".lua") for name in packed):
        raise SystemExit("the wheel holds no Lua script")
    if "reliable_tasks/py.typed" not in packed:
        raise SystemExit("the wheel lacks py.typed")
    print(f"{wheel.name}: {len(packed)} files, all of src and nothing else")


def check_import(wheel: Path, environment: Path) -> None:
    """In an empty environment, without extras, the package imports and its command answers."""
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "venv", environment, cwd=PROJECT.parent)
    run(python, "-m", "pip", "install", "-q", wheel, cwd=environment)
    names = "from reliable_tasks import *; import reliable_tasks; print(reliable_tasks.__file__)"
    run(python, "-W", "error", "-c", names, cwd=environment)
    run(environment / "bin" / "reliable-tasks", "--help", cwd=environment)


def run_main_line(sdist: Path, folder: Path) -> None:
    """The README's first command does its work in a fresh copy of the sources."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    line = (source / "README.md").read_text().partition(MARK)[2].partition("\n")[0]
    run("bash", "-c", line, cwd=source)


def run(*command: object, cwd: Path) -> None:
    """Run a command to its end; its failure is ours."""
    print("$", *command, flush=True)
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(f"ended with {done.returncode}")


if __name__ == "__main__":
    main()
