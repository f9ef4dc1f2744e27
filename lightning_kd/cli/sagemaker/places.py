"""Refuses files and folders that a job would not find, because they are only here."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_kd.cli.sagemaker.job import CHANNELS
from lightning_kd.cli.sagemaker.source import PACKAGE

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

DATA = ("path", "predict_path", "tokenizer", "teacher_tokenizer")


def check_places(run: Any, source: Path | None) -> None:
    """Refuse a teacher, a base or data that lie on this machine only.

    Args:
        run: What a run's YAML file says, its placeholders filled in.
        source: The folder that is packed.

    Raises:
        ValueError: If one exists here and is not packed, or is neither packed nor the name of something on the hub.
            A whole path that is not here is let through: the image or a channel may have it.
    """
    for field, place in _places(run):
        if "://" in place or place.startswith(CHANNELS) or _packed(place, source):
            continue
        path = Path(place).expanduser()
        if path.exists() or not (path.is_absolute() or HUB_ID.fullmatch(place)):
            raise ValueError(
                f"{field}: the job has no {place!r}; copy it to S3, add --channels.<name> s3://... and name it as "
                "${SM_CHANNEL_<NAME>}, or put it into the folder of --source"
            )


def _packed(place: str, source: Path | None) -> bool:
    """Whether a path from the job's current folder leads to something in the archive, see source.py."""
    parts = Path(place).parts
    folder = PACKAGE.parent if parts[:1] == (PACKAGE.name,) else source
    if folder is None or ".." in parts or Path(place).is_absolute():
        return False
    path = folder / place
    return path.exists() and path.resolve().is_relative_to(folder.resolve())  # not where a link leads out of it


def _places(run: Any) -> Iterator[tuple[str, str]]:
    teacher, student = run.model.get("teacher"), run.model.get("student")
    for one in teacher if isinstance(teacher, list) else [teacher]:
        yield from _named("model.teacher", one, "pretrained")
    yield from _named("model.student", student, "config")
    settings = run.data.get("init_args") or {}
    for name in DATA:
        yield from _named(f"data.{name}", settings.get(name), name)


def _named(field: str, value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif value is not None and isinstance(value.get(key), str):
        yield f"{field}.{key}", value[key]
