"""The texts of a corpus, from the Hub or from local files."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets

from lightning_kd.data.encoding_cache import get_fingerprint, set_fingerprint
from lightning_kd.data.readers import CORPUS_SUFFIXES, read_texts
from lightning_kd.data.splits import find_split_files, load_hub_splits


def _generate_examples(file: str, column: str, version: str) -> Iterator[dict[str, str]]:
    # version is unused here, but datasets includes all arguments in the fingerprint
    yield from ({"text": text} for text in read_texts(Path(file), column))


READ_BYTES = 2**20
"""Number of bytes read at a time."""


@dataclass
class TextSource:
    """The splits of a corpus, read on first use.

    Args:
        path: Hub id, local file, or folder.
        column: Column of the texts, in tables and Hub datasets.
        config_name: Configuration of the Hub dataset, if it has several.
        version: Version of the reader; files are read again if it changes.
        revision: Branch, tag or commit of a Hub dataset.

    Raises:
        OSError: On use, if there is no such dataset.
        ValueError: On use, if a file cannot be read or has no such column; the message names file and line.
    """

    path: str
    column: str
    config_name: str | None
    version: int
    revision: str | None = None

    @cached_property
    def _split_files(self) -> dict[str, Path] | None:
        """The local file of each split; None if the path is a Hub id."""
        local = Path(self.path).expanduser()
        return find_split_files(local, CORPUS_SUFFIXES) if local.exists() else None

    @cached_property
    def _hub_splits(self) -> dict[str, datasets.Dataset]:
        splits = load_hub_splits(self.path, self.config_name, self.revision)
        for rows in splits.values():
            if str(getattr(rows.features.get(self.column), "dtype", "")) != "string":
                raise ValueError(
                    f"data.text_column: {self.path!r} has no column {self.column!r} of texts; "
                    f"it has {', '.join(map(repr, rows.column_names))}"
                )
        return splits

    def has_split(self, split: str) -> bool:
        """Return True if there is a split ``train``, ``validation`` or ``test``."""
        return split in (self._hub_splits if self._split_files is None else self._split_files)

    def content_key(self, split: str, only_ends: bool) -> str:
        """Return a key of the content of a split, which stays the same when a file is copied or downloaded again.

        Args:
            split: Name of the split.
            only_ends: If True, read only the first and the last MB of a file, and its size.
        """
        if self._split_files is None:
            return get_fingerprint(self._hub_splits[split])
        file, digest = self._split_files[split], hashlib.sha256()
        size = file.stat().st_size
        with file.open("rb") as stream:
            while part := stream.read(READ_BYTES):
                digest.update(part)
                if only_ends and stream.tell() < size - READ_BYTES:
                    stream.seek(size - READ_BYTES)
        return f"{size} {digest.hexdigest()}"

    def _version(self, file: Path) -> str:
        return f"{file.stat().st_size} {file.stat().st_mtime_ns} {self.version}"

    def iter_texts(self, split: str) -> Iterator[str]:
        """Yield the texts of a split one by one, for streaming."""
        if self._split_files is not None:
            yield from read_texts(self._split_files[split], self.column)
        else:
            yield from (text for text in self._hub_splits[split][self.column] if text and text.strip())

    def load_split(self, split: str) -> datasets.Dataset:
        """Return the texts of a split in a column ``text``, memory-mapped from the cache of ``datasets``.

        Raises:
            ValueError: If a line cannot be read; the message names file and line.
        """
        if self._split_files is None:
            return self._hub_splits[split].select_columns(self.column).rename_column(self.column, "text")
        file = self._split_files[split]
        if next(read_texts(file, self.column), None) is None:
            return datasets.Dataset.from_dict({"text": []})  # from_generator raises without examples
        arguments = {"file": str(file.resolve()), "column": self.column, "version": self._version(file)}
        try:
            table: datasets.Dataset = datasets.Dataset.from_generator(
                _generate_examples,
                features=datasets.Features({"text": datasets.Value("string")}),
                cache_dir=str(datasets.config.HF_DATASETS_CACHE),
                gen_kwargs=arguments,
            )
        except datasets.exceptions.DatasetGenerationError as error:
            raise (error.__cause__ or error) from None
        # that of datasets (4.0) depends on the file's folder and the generator's module, which may move
        key = f"{file.name} {self._version(file)} {self.column}"
        set_fingerprint(table, hashlib.sha256(key.encode()).hexdigest()[:16])
        return table
