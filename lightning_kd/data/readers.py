"""Readers of local files; errors name file, line and remedy."""

import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

Columns = dict[str, list[Any]]
"""A table by column; all columns have the same length."""

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt")

PLAIN_TEXT_SUFFIXES = (".txt", ".raw")
"""Files with one text per line."""

CORPUS_SUFFIXES = (*PLAIN_TEXT_SUFFIXES, ".csv", ".tsv", ".jsonl")
"""Files whose texts can be read one by one."""

INVALID_BYTES = re.compile("[\udc80-\udcff]+")
"""Bytes that are not UTF-8, as ``surrogateescape`` decodes them."""


def _iter_lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, with or without byte order mark; each ends with a line feed.

    Args:
        path: The file.
        newline: As in ``open``; an empty string keeps the line ends, which may be part of a quoted CSV field.

    Raises:
        ValueError: If a line is not UTF-8.
    """
    # not str.splitlines: it also splits at form feeds, U+0085 and U+2028, which may be part of a text
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as stream:
            yield from stream
    except UnicodeDecodeError as error:
        raise _utf8_error(path) from error


def _utf8_error(path: Path) -> ValueError:
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        matches = ((number, INVALID_BYTES.search(line)) for number, line in enumerate(stream, 1))
        number, invalid = next((number, match[0]) for number, match in matches if match)
    invalid_bytes = invalid.encode("utf-8", errors="surrogateescape")
    encoding = "utf-16" if number == 1 and invalid_bytes.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin1"
    return ValueError(
        f"{path}, line {number}: not UTF-8 (byte 0x{invalid_bytes[0]:02x}); convert the file, "
        f"for instance with iconv -f {encoding} -t utf-8"
    )


def _parse_json(text: str, path: Path, first_line: int = 1) -> Any:
    where = str(path) if "\n" in text else f"{path}, line {first_line}"
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # an escaped half of a surrogate pair is JSON, but no text
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = error.lineno + first_line - 1
        raise ValueError(f"{path}, line {line}, column {error.colno}: not JSON ({error.msg})") from error
    except UnicodeEncodeError as error:
        half, before = error.object[error.start], error.object[max(error.start - 20, 0) : error.start]
        raise ValueError(f"{where}: half a character ({half!a}) after {before!r}; remove it") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: a number is too long or lists are nested too deeply; shorten it") from error
    return value


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: If the file is not JSON; the message names line and column.
    """
    return _parse_json("".join(_iter_lines(path)), path)


def _iter_json(path: Path) -> Iterator[tuple[str, Row]]:
    if path.suffix == ".json" and next(filter(str.strip, _iter_lines(path)), "").lstrip().startswith("["):
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(read_json(path), 1))
        return
    for number, line in enumerate(_iter_lines(path), 1):
        if line.strip():
            yield f"{path}, line {number}", _parse_json(line.rstrip("\n"), path, number)


def _iter_csv(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)
    # in tab-separated files, such as GLUE's, quotation marks are ordinary characters
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    reader = csv.reader(_iter_lines(path, newline=""), strict=True, **dialect)
    names: list[str] | None = None
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{where}: not CSV ({error}); is a quotation mark missing?") from error
        if not record:
            continue
        if names is None:
            names = record
            if duplicates := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{where}: two columns have the name {duplicates[0]!r}; rename one")
            continue
        if len(record) != len(names):
            header = ", ".join(map(repr, names))
            raise ValueError(f"{where}: {len(record)} fields where the header has {len(names)} ({header})")
        yield where, dict(zip(names, record, strict=True))


def iter_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a file with their locations, for messages; only one row is in memory at a time.

    Args:
        path: CSV or TSV with a header, JSON lines, a JSON array of objects (read as a whole), or plain text with one
            text per line (column ``text``), blank lines skipped. UTF-8, with or without byte order mark.

    Raises:
        ValueError: If the suffix is unknown or a row cannot be read; the message names file and line.
    """
    if path.suffix in PLAIN_TEXT_SUFFIXES:
        yield from ((str(path), {"text": line.rstrip("\n")}) for line in _iter_lines(path) if line.strip())
    elif path.suffix in (".csv", ".tsv"):
        yield from _iter_csv(path)
    elif path.suffix in (".json", ".jsonl"):
        for where, row in _iter_json(path):
            if not isinstance(row, dict):
                raise ValueError(f'{where}: expected an object such as {{"text": ...}}, got {row!r:.60}')
            yield where, row
    else:
        raise ValueError(f"{path}: cannot read the suffix {path.suffix!r}; use one of {', '.join(TABLE_SUFFIXES)}")


def read_columns(path: Path) -> Columns:
    """Read a table, see ``iter_rows``.

    Raises:
        ValueError: If the file cannot be read, or the rows have different columns; the message names file and line.
    """
    columns: Columns | None = None
    for where, row in iter_rows(path):
        if columns is None:
            columns = {name: [] for name in row}
        if row.keys() != columns.keys():
            raise ValueError(f"{where}: has the columns {sorted(row)}, the first row {sorted(columns)}")
        for name, value in row.items():
            columns[name].append(value)
    return columns or {}


def check_columns(argument: str, required: list[str], available: Collection[str]) -> None:
    """Raise if columns are missing.

    Args:
        argument: Argument that names the columns or the table, and its value, for the message.
        required: Names of the required columns.
        available: Names of the columns of the table.

    Raises:
        ValueError: If a required column is not available.
    """
    for name in required:
        if name not in available:
            raise ValueError(f"{argument} has no column {name!r}; it has {', '.join(map(repr, available))}")


def read_texts(path: Path, column: str) -> Iterator[str]:
    """Yield the texts of a file that are not blank, one by one.

    Args:
        path: File with a suffix of ``CORPUS_SUFFIXES``.
        column: Column of the texts, in a table.

    Raises:
        ValueError: If a line cannot be read, or a row has no such column; the message names file and line.
    """
    if path.suffix in PLAIN_TEXT_SUFFIXES:
        column = "text"
    for where, row in iter_rows(path):
        check_columns(f"data.text_column: {where}", [column], row)
        text = row[column]
        if not isinstance(text, str):
            raise ValueError(f"{where}: expected a text in column {column!r}, got {text!r:.60}")
        if text.strip():
            yield text
