"""Plain text: files line by line, however large."""

import csv
from collections.abc import Iterator
from pathlib import Path

from lightning_kd.data.readers import parse_json, utf8_error

PLAIN_TEXT_SUFFIXES = (".txt", ".raw")
"""Files with a text per line."""

TEXT_COLUMN_SUFFIXES = (".csv", ".tsv", ".jsonl")
"""Files with a column of texts."""


CORPUS_SUFFIXES = PLAIN_TEXT_SUFFIXES + TEXT_COLUMN_SUFFIXES


def read_texts(file: Path, column: str) -> Iterator[str]:
    """The texts of a file that are not blank, one after the other; only one line is in memory.

    Args:
        file: UTF-8, with or without byte order mark.
        column: Column of the text, in a table.

    Raises:
        ValueError: If a line is not UTF-8 or cannot be read, or a table has no such column; names file and line.
    """
    texts = _iter_lines(file) if file.suffix in PLAIN_TEXT_SUFFIXES else _iter_column(file, column)
    return (text for text in texts if text.strip())


def _iter_lines(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise utf8_error(file, number, error) from error
            yield line.rstrip("\r\n")


def _iter_column(file: Path, column: str) -> Iterator[str]:
    if file.suffix == ".jsonl":
        yield from _iter_json_lines(file, column)
        return
    csv.field_size_limit(2**31 - 1)
    tabs = file.suffix == ".tsv"
    # with the line ends: a quoted field may hold some
    lines = (f"{line}\n" for line in _iter_lines(file))
    reader = csv.reader(
        lines,
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        names = next(reader, [])
        if column not in names:
            raise ValueError(_missing_column_message(file, column, names))
        index = names.index(column)
        for record in reader:
            if record and len(record) != len(names):
                raise ValueError(
                    f"{file}, line {reader.line_num}: {len(record)} fields where the header has {len(names)} "
                    f"({', '.join(names)})"
                )
            if record:
                yield record[index]
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: not CSV ({error}); is a quotation mark missing?") from error


def _iter_json_lines(file: Path, column: str) -> Iterator[str]:
    for number, line in enumerate(_iter_lines(file), 1):
        if not line.strip():
            continue
        row = parse_json(line, file, number)
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            if isinstance(row, dict) and column not in row:
                raise ValueError(_missing_column_message(file, column, list(row)))
            raise ValueError(f"{file}, line {number}: expected an object with a text {column!r}, got {line:.60}")
        yield row[column]


def _missing_column_message(file: Path, column: str, names: list[str]) -> str:
    return f"data.text_column: {file} has no column {column!r}; it has {', '.join(map(repr, names)) or 'none'}"
