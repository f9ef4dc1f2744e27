"""Fixtures of files for the DataModules."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, str | bytes]], Path]:
    """Return a function that writes files, such as ``{"train.csv": content}``, and returns their folder."""

    def write(files: dict[str, str | bytes]) -> Path:
        for name, content in files.items():
            file = tmp_path / "rows" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return tmp_path / "rows"

    return write


@pytest.fixture
def file(write) -> Callable[[str, str | bytes], Path]:
    """Return a function that writes a file."""
    return lambda name, content: write({name: content}) / name
