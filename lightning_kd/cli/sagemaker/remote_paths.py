"""Check that a job can find the files and folders that its config names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_kd.cli.sagemaker.job import CHANNEL_DIR
from lightning_kd.cli.sagemaker.source import PACKAGE, is_left_out

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

DATA_ARGUMENTS = ("path", "predict_path", "tokenizer", "teacher_tokenizer")


def check_remote_paths(config: Any, source: Path | None) -> None:
    """Raise if teacher, student or data exist on this machine only.

    Args:
        config: Config of ``fit`` with placeholders replaced.
        source: Folder that is packed into the source archive.

    Raises:
        ValueError: If a path exists here and is not packed, or is neither packed nor a Hub id. An absolute path that
            does not exist here passes: the image or a channel may have it.
    """
    for field, value in _config_paths(config):
        if "://" in value or value.startswith(CHANNEL_DIR) or _is_packed(value, source):
            continue
        path = Path(value).expanduser()
        exists = path.exists() or (source is not None and (source / path).exists())
        if exists or not (path.is_absolute() or HUB_ID.fullmatch(value)):
            raise ValueError(
                f"{field}: {value!r} does not exist in the job; copy it to S3, add --channels.<name> s3://... and use "
                "${SM_CHANNEL_<NAME>}, or copy it into the folder of --source, outside of lightning_logs"
            )


def _is_packed(value: str, source: Path | None) -> bool:
    """Return True if a path relative to the job's working directory is in the source archive, see source.py."""
    parts = Path(value).parts
    folder = PACKAGE.parent if parts[:1] == (PACKAGE.name,) else source
    if folder is None or ".." in parts or Path(value).is_absolute():
        return False
    path = folder / value
    if any(is_left_out(folder.joinpath(*parts[: i + 1])) for i in range(len(parts))):
        return False
    return path.exists() and path.resolve().is_relative_to(folder.resolve())  # not a link out of the folder


def _config_paths(config: Any) -> Iterator[tuple[str, str]]:
    teacher, student = config.model.get("teacher"), config.model.get("student")
    members = teacher.get("ensemble") if hasattr(teacher, "get") and teacher.get("ensemble") else teacher
    for source in members if isinstance(members, list) else [members]:
        yield from _path_entry("model.teacher", source, "pretrained")
    yield from _path_entry("model.student", student, "config")
    if not isinstance(student, str):
        yield from _path_entry("model.student", student, "pretrained")
    init_args = config.data.get("init_args") or {}
    for name in DATA_ARGUMENTS:
        yield from _path_entry(f"data.{name}", init_args.get(name), name)


def _path_entry(field: str, value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif value is not None and isinstance(value.get(key), str):
        yield f"{field}.{key}", value[key]
