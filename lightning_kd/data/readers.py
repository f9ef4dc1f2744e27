"""Local files to columns, with errors that name file, line and remedy."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Columns = dict[str, list[Any]]
"""A table by column; all columns have the same length."""

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""File stems and hub split names, and the split each stands for."""

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without byte order mark.

    Raises:
        ValueError: If it is not UTF-8; names the line.
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.object is what was decoded: without the byte order mark, if there was one
        line = error.object.count(b"\n", 0, error.start) + 1
        raise utf8_error(path, line, error) from error


def utf8_error(path: Path, line: int, error: UnicodeDecodeError) -> ValueError:
    """The error that names the line and how to convert the file."""
    encoding = "utf-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
    return ValueError(
        f"{path}, line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}); convert the file, "
        f"for instance with iconv -f {encoding} -t utf-8"
    )


def _read_lines(path: Path) -> list[str]:
    # str.splitlines would also end lines at form feeds, U+0085 and U+2028, which are characters of texts
    return [line.rstrip("\n") for line in io.StringIO(read_text(path), newline=None)]


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: If it is no JSON; names line and column.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    """Parse JSON that begins at a line of a file; errors as in ``read_json``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        raise ValueError(f"{path}, line {line}, column {error.colno}: not JSON ({error.msg})") from error


def _rows_to_columns(rows: list[dict[str, Any]], path: Path) -> Columns:
    names = list(rows[0]) if rows else []
    for number, row in enumerate(rows, 1):
        if row.keys() != set(names):
            raise ValueError(f"{path}, row {number}: has the columns {sorted(row)}, the first row {sorted(names)}")
    return {name: [row[name] for row in rows] for name in names}


def _read_json_rows(path: Path) -> Columns:
    lines = _read_lines(path)
    if path.suffix == ".json" and next(filter(str.strip, lines), "").lstrip().startswith("["):
        rows = parse_json("\n".join(lines), path)
    else:
        rows = [parse_json(line, path, n) for n, line in enumerate(lines, 1) if line.strip()]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f'{path}, row {number}: expected an object such as {{"text": ...}}, got {row!r:.60}')
    return _rows_to_columns(rows, path)


def _iter_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV or TSV file that are not blank, and the line on which each begins."""
    # in tab-separated files, GLUE's among them, a quotation mark is a character like any other
    tabs = path.suffix == ".tsv"
    reader = csv.reader(
        io.StringIO(read_text(path), newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,
    )
    csv.field_size_limit(2**31 - 1)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path}, line {line}: not CSV ({error}); is a quotation mark missing?") from error
        if record:
            yield line, record


def _read_csv(path: Path) -> Columns:
    records = _iter_records(path)
    _, names = next(records, (1, []))
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}, line 1: two columns have the name {duplicates[0]!r}; rename one")
    columns: Columns = {name: [] for name in names}
    for line, record in records:
        if len(record) != len(names):
            raise ValueError(
                f"{path}, line {line}: {len(record)} fields where the header has {len(names)} ({', '.join(names)})"
            )
        for name, value in zip(names, record, strict=True):
            columns[name].append(value)
    return columns


def read_columns(path: Path) -> Columns:
    """Read a table: CSV or TSV with a header, JSON lines, a JSON array of objects, or plain text (column ``text``).

    Raises:
        ValueError: If the suffix is another one, or a line cannot be read; names file and line.
    """
    if path.suffix == ".txt":
        return {"text": [line for line in _read_lines(path) if line.strip()]}
    if path.suffix in (".csv", ".tsv"):
        return _read_csv(path)
    if path.suffix in (".json", ".jsonl"):
        return _read_json_rows(path)
    raise ValueError(f"{path}: cannot read the suffix {path.suffix!r}; use one of {', '.join(TABLE_SUFFIXES)}")


def split_from_filename(file: Path) -> str | None:
    """The split a file is named after: ``train.txt`` and ``wiki.train.raw`` after ``train``; None if after none."""
    return SPLIT_NAMES.get(file.stem.rpartition(".")[2])


def find_split_files(path: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The file of each split: a file (the split it is named after, else ``train``) or those of a folder.

    Raises:
        ValueError: If a suffix is unknown, or a folder has no such file or two for one split.
    """
    known = ", ".join(suffixes)
    if path.is_file():
        if path.suffix not in suffixes:
            raise ValueError(f"{path}: cannot read the suffix {path.suffix!r}; use one of {known}")
        return {split_from_filename(path) or "train": path}
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        split = split_from_filename(file)
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
    """Read a table (the split it is named after, else ``train``) or a folder of tables named after splits.

    Raises:
        ValueError: As ``find_split_files`` and ``read_columns``.
    """
    return {split: read_columns(file) for split, file in find_split_files(path, TABLE_SUFFIXES).items()}
