"""What a training job runs: this package as it is here, a YAML file, and files of the user's."""

import io
import re
import tarfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import lightning_kd
from lightning_kd.cli.sagemaker.arguments import DEFAULT_CONFIG
from lightning_kd.cli.sagemaker.job import ENTRY

PACKAGE = Path(lightning_kd.__file__).resolve().parent

REQUIREMENTS = "requirements.txt"

SCRIPT = '''"""Started by SageMaker's training toolkit on each host."""

from lightning_kd.cli.sagemaker.__main__ import main

if __name__ == "__main__":
    main()
'''


def pack(target: Path, config: Path, source: Path | None) -> None:
    """Write the archive that the training toolkit unpacks and runs.

    Args:
        target: The ``.tar.gz`` to write.
        config: The YAML file, which becomes ``config.yaml``.
        source: A folder whose files lie beside it, and whose requirements are installed, too.

    Raises:
        ValueError: If the folder has a file of a name that we need.
    """
    own = {ENTRY: SCRIPT, DEFAULT_CONFIG: config.read_text(encoding="utf-8"), REQUIREMENTS: _requirements(source)}
    with tarfile.open(target, "w:gz") as archive:
        archive.add(PACKAGE, PACKAGE.name, filter=_clean)
        for path in sorted(source.iterdir()) if source is not None else []:
            if path.name in (ENTRY, DEFAULT_CONFIG, PACKAGE.name) and path.resolve() not in (config.resolve(), PACKAGE):
                raise ValueError(f"source: {str(path)!r} has the name of a file of ours; rename it")
            if path.name not in (*own, PACKAGE.name):
                archive.add(path, path.name, filter=_clean)
        for name, text in own.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def _clean(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(member.name).name in ("__pycache__", ".git") else member


def _requirements(source: Path | None) -> str:
    """What this package needs, less PyTorch, which the image has; and what the user's files need."""
    try:
        needed = requires("lightning-kd") or []
    except PackageNotFoundError as error:
        raise ValueError(
            "lightning-kd: is not installed here, so what it needs is not known; install it (pip install -e .)"
        ) from error
    lines = [line for line in needed if "extra ==" not in line and not re.match(r"torch\b(?!-)", line)]
    if source is not None and (source / REQUIREMENTS).is_file():
        lines += (source / REQUIREMENTS).read_text(encoding="utf-8").splitlines()
    return "\n".join(lines) + "\n"
