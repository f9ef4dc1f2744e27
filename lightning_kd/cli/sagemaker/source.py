"""The source archive of a training job: this package, a YAML file, and the user's files."""

import io
import re
import tarfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import lightning_kd
from lightning_kd.cli.sagemaker.arguments import DEFAULT_CONFIG
from lightning_kd.cli.sagemaker.job import ENTRY_POINT

PACKAGE = Path(lightning_kd.__file__).resolve().parent

REQUIREMENTS = "requirements.txt"

SCRIPT = '''"""Started by SageMaker's training toolkit on each host."""

from lightning_kd.cli.sagemaker.__main__ import main

if __name__ == "__main__":
    main()
'''


def pack(target: Path, config: Path, source: Path | None) -> None:
    """Write the archive that SageMaker's training toolkit unpacks and runs.

    Args:
        target: The ``.tar.gz`` to write.
        config: The YAML file, which becomes ``config.yaml``.
        source: Folder whose files are added, and whose ``requirements.txt`` is installed as well.

    Raises:
        ValueError: If a file of the folder has a reserved name.
    """
    files = {
        ENTRY_POINT: SCRIPT,
        DEFAULT_CONFIG: config.read_text(encoding="utf-8"),
        REQUIREMENTS: _requirements(source),
    }
    with tarfile.open(target, "w:gz") as archive:
        archive.add(PACKAGE, PACKAGE.name, filter=_exclude_caches)
        for path in sorted(source.iterdir()) if source is not None else []:
            if path.name in (ENTRY_POINT, DEFAULT_CONFIG, PACKAGE.name) and path.resolve() not in (
                config.resolve(),
                PACKAGE,
            ):
                raise ValueError(f"source: {str(path)!r} has a reserved name; rename it")
            if path.name not in (*files, PACKAGE.name):
                archive.add(path, path.name, filter=_exclude_caches)
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def _exclude_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(member.name).name in ("__pycache__", ".git") else member


def _requirements(source: Path | None) -> str:
    """Return the requirements of this package without PyTorch, which the image has, and of the user's files."""
    try:
        required = requires("lightning-kd") or []
    except PackageNotFoundError as error:
        raise ValueError(
            "lightning-kd: not installed, so its requirements are unknown; install it (pip install -e .)"
        ) from error
    lines = [line for line in required if "extra ==" not in line and not re.match(r"torch\b(?!-)", line)]
    if source is not None and (source / REQUIREMENTS).is_file():
        lines += (source / REQUIREMENTS).read_text(encoding="utf-8").splitlines()
    return "\n".join(lines) + "\n"
