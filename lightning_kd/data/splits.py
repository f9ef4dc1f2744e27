"""Splits of a dataset: the files of a folder, or those of a Hub dataset."""

from pathlib import Path

import datasets

from lightning_kd.data.readers import TABLE_SUFFIXES, Columns, read_columns

SPLIT_NAMES = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    "test": "test",
}
"""File stems and hub split names, each mapped to its split."""


def _split_from_filename(file: Path) -> str | None:
    """Return the split in a file name, such as ``train`` for ``train.txt`` and ``wiki.train.raw``."""
    return SPLIT_NAMES.get(file.stem.rpartition(".")[2])


def find_split_files(path: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Find the file of each split.

    Args:
        path: A file, which is assigned to the split in its name or else to ``train``; or a folder with files named
            after splits.
        suffixes: Suffixes that can be read.

    Raises:
        ValueError: If a suffix is unknown, or a folder has no such file or two for one split.
    """
    known = ", ".join(suffixes)
    if path.is_file():
        if path.suffix not in suffixes:
            raise ValueError(f"{path}: cannot read the suffix {path.suffix!r}; use one of {known}")
        return {_split_from_filename(path) or "train": path}
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        split = _split_from_filename(file)
        if split is None or file.suffix not in suffixes:
            continue
        if split in found:
            raise ValueError(f"{path}: both {found[split].name} and {file.name} are the {split} split; remove one")
        found[split] = file
    if not found:
        raise ValueError(
            f"{path}: no file named after a split; expected for instance train{suffixes[0]} and "
            f"validation{suffixes[0]} (suffixes: {known})"
        )
    return found


def read_splits(path: Path) -> dict[str, Columns]:
    """Read a table or a folder of tables, see ``find_split_files`` and ``read_columns``."""
    return {split: read_columns(file) for split, file in find_split_files(path, TABLE_SUFFIXES).items()}


def load_hub_splits(
    path: str, config_name: str | None = None, revision: str | None = None
) -> dict[str, datasets.Dataset]:
    """Load the splits of a Hub dataset, from the Hub or from the cache of ``datasets``.

    Args:
        path: Hub id.
        config_name: Configuration, if the dataset has several.
        revision: Branch, tag or commit.

    Raises:
        OSError: If the dataset cannot be loaded.
        ValueError: If no split is a training, validation or test split.
    """
    try:
        loaded: datasets.DatasetDict = datasets.load_dataset(path, config_name, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        cause = (str(error) or type(error).__name__).splitlines()[0]
        raise OSError(
            f"data.path: {path!r} is neither a local file or folder nor a dataset that the Hub could provide "
            f"({cause:.120}); check the name and the connection, or give a local path"
        ) from error
    splits = {SPLIT_NAMES[split]: rows for split, rows in loaded.items() if split in SPLIT_NAMES}
    if not splits:
        raise ValueError(f"data.path: {path!r} has the splits {', '.join(loaded)}; one must be named train")
    return splits


def hold_out_validation(rows: datasets.Dataset, fraction: float, path: str) -> dict[str, datasets.Dataset]:
    """Divide training examples at random, always in the same way.

    Args:
        rows: Training examples.
        fraction: Fraction of the examples to hold out, in (0, 1).
        path: Path of the dataset, for the message.

    Returns:
        The splits ``train`` and ``validation``, as indices into the examples; ``flatten_indices`` copies them.

    Raises:
        ValueError: If there are fewer than two examples.
    """
    if len(rows) < 2:
        raise ValueError(f"data.validation_fraction: {path!r} has only {len(rows)} texts to split; add more texts")
    parts = rows.train_test_split(fraction, seed=0)
    return {"train": parts["train"], "validation": parts["test"]}
