"""The source archive of a training job: this package, a YAML file, and the user's files."""

import io
import re
import tarfile
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import lightning_kd
from lightning_kd.cli.sagemaker.arguments import DEFAULT_CONFIG
from lightning_kd.cli.sagemaker.job import ENTRY_POINT

PACKAGE = Path(lightning_kd.__file__).resolve().parent

REQUIREMENTS = "requirements.txt"

GENERATED = (".*", "__pycache__", "node_modules", "lightning_logs", "*.ckpt")
"""Names of hidden files and of what programs write."""

CREDENTIALS = (
    *("*credentials*", "secrets.*", "client_secret*", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*"),
    *("*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk"),
)
"""Names of credentials, in lower case, unless they are Python code."""

MARKERS = ("pyvenv.cfg", "conda-meta", "values.bin")
"""What a virtual environment, a conda environment or a teacher cache contains."""

MAX_NAMES_SHOWN = 10

SCRIPT = '''"""Started by SageMaker's training toolkit on each host."""

from lightning_kd.cli.sagemaker.__main__ import main

if __name__ == "__main__":
    main()
'''


def pack(target: Path, config: Path, source: Path | None) -> str:
    """Write the archive that SageMaker's training toolkit unpacks and runs.

    Args:
        target: The ``.tar.gz`` to write.
        config: The YAML file, which becomes ``config.yaml``.
        source: Folder whose files are added, without those of ``is_left_out``, and whose ``requirements.txt`` is
            installed as well.

    Returns:
        How much of the folder is packed, and what is left out.

    Raises:
        ValueError: If a file of the folder has a reserved name.
    """
    files = {
        ENTRY_POINT: SCRIPT,
        DEFAULT_CONFIG: config.read_text(encoding="utf-8"),
        REQUIREMENTS: _requirements(source),
    }
    left_out: list[str] = []

    def select(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if source is not None and is_left_out(source / member.name):
            left_out.append(member.name)
            return None
        return member

    with tarfile.open(target, "w:gz") as archive:
        for path in sorted(source.iterdir()) if source is not None else []:
            if path.name in (ENTRY_POINT, DEFAULT_CONFIG, PACKAGE.name) and path.resolve() not in (
                config.resolve(),
                PACKAGE,
            ):
                raise ValueError(f"source: {str(path)!r} has a reserved name; rename it")
            if path.name not in (*files, PACKAGE.name):
                archive.add(path, path.name, filter=select)
        sizes = [member.size for member in archive.getmembers() if member.isfile()]
        archive.add(PACKAGE, PACKAGE.name, filter=lambda m: None if is_left_out(PACKAGE.parent / m.name) else m)
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    more = [f"and {len(left_out) - MAX_NAMES_SHOWN} more"] if len(left_out) > MAX_NAMES_SHOWN else []
    names = ": " * bool(left_out) + ", ".join([*left_out[:MAX_NAMES_SHOWN], *more])
    return f"source: {len(sizes)} files of {sum(sizes) / 1e6:.1f} MB packed, {len(left_out)} left out{names}"


def is_left_out(path: Path) -> bool:
    """Return True for a file or folder that is hidden, a credential, an environment, a cache or written by a run."""
    is_code = path.suffix == ".py" or (path / "__init__.py").is_file()
    patterns = GENERATED if is_code else GENERATED + CREDENTIALS
    return any(fnmatchcase(path.name.lower(), pattern) for pattern in patterns) or any(
        (path / name).exists() for name in MARKERS
    )


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
