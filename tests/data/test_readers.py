"""Readers of local files, and errors that name file and line."""

import json
import re

import pytest

from lightning_kd.data.readers import read_columns, read_json, read_texts


def texts(path):
    return list(read_texts(path, "text"))


ROWS = [{"text": "héllo", "label": 1}, {"label": None, "text": "two\nlines"}]
JSON_LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in ROWS)
JSON_COLUMNS = {"text": ["héllo", "two\nlines"], "label": [1, None]}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        (
            "a.csv",
            'text,label\n"hello, you",a\n"said ""hi""",b\n"two\nlines",c\n\n,d\n',
            {"text": ["hello, you", 'said "hi"', "two\nlines", ""], "label": ["a", "b", "c", "d"]},
        ),
        # quotation marks are ordinary characters
        ("a.tsv", 'text\n"hello, you\nhe said "hi"\n""\n', {"text": ['"hello, you', 'he said "hi"', '""']}),
        ("a.jsonl", JSON_LINES, JSON_COLUMNS),
        ("a.json", JSON_LINES, JSON_COLUMNS),
        ("a.json", json.dumps(ROWS, indent=2), JSON_COLUMNS),
        ("a.txt", "hello\n\n  \ngrüß dich\r\nlast", {"text": ["hello", "grüß dich", "last"]}),
        ("a.csv", BYTE_ORDER_MARK + b"text\r\nhello\r\n", {"text": ["hello"]}),
        ("a.tsv", BYTE_ORDER_MARK + b"text\r\nhello\r\n", {"text": ["hello"]}),
        ("a.txt", BYTE_ORDER_MARK + b"hello\r\n", {"text": ["hello"]}),
        ("a.json", BYTE_ORDER_MARK + b'[{"text": "hello"}]', {"text": ["hello"]}),
    ],
)
def test_formats(file, name, content, columns):
    path = file(name, content)
    assert read_columns(path) == columns
    assert texts(path) == [text for text in columns["text"] if text]


def test_plain_text_has_no_columns(file):
    assert list(read_texts(file("a.txt", "hello"), "any column")) == ["hello"]


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0c"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "text\n{}\n"), ("a.tsv", "text\n{}\n"), ("a.jsonl", '{{"text": "{}"}}\n'), ("a.txt", "{}\n")],
)
def test_other_separators_do_not_end_lines(file, name, content, separator):
    text = f"good{separator}morning"
    escaped = text.replace("\x0c", "\\f") if name.endswith("jsonl") else text  # JSON has no bare control characters
    assert read_columns(file(name, content.format(escaped))) == {"text": [text]}


def test_long_fields(file):
    text = "word " * 40_000
    assert read_columns(file("a.csv", f"text\n{text}\n")) == {"text": [text]}


def test_texts_are_read_lazily(file):
    path = file("a.txt", b"one\ntwo\n" + b"more\n" * 10_000 + b"\xff\n")
    reader = read_texts(path, "text")
    assert [next(reader), next(reader)] == ["one", "two"]
    with pytest.raises(ValueError, match="line 10003: not UTF-8"):
        list(reader)


NOT_OBJECTS = ('["b"]', '"b"', "3", "null")


@pytest.mark.parametrize("read", [read_columns, texts])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,label\nhello,a\ncaf\xe9,b\n", "line 3: not UTF-8 (byte 0xe9)"),
        ("a.csv", b"\xef\xbb\xbftext\n\xe9t\xe9\n", "line 2: not UTF-8 (byte 0xe9)"),
        ("a.txt", b"text\nfine\nna\xefve\n", "line 3: not UTF-8 (byte 0xef); convert the file, for instance"),
        ("a.jsonl", b'{"text": "fine"}\n\n{"text": "na\xefve"}\n', "line 3: not UTF-8 (byte 0xef)"),
        ("a.txt", "hello".encode("utf-16"), "iconv -f utf-16"),
        ("a.jsonl", '{"text": "a"}\n{"text": b}\n', "line 2, column 10: not JSON"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2, column 10: not JSON"),
        ("a.json", '[{"text": "a"},\n{"text": "b"}\n{"text": "c"}]', "line 3, column 1: not JSON"),
        ("a.csv", 'text,label\n"two\nlines",a\n\nbye\n', "line 5: 1 fields where the header has 2 ('text', 'label')"),
        (
            "a.csv",
            'text,label\n"two\nlines",a\n\nbye,b,c\n',
            "line 5: 3 fields where the header has 2 ('text'",
        ),
        ("a.tsv", "text\tlabel\nhello\ta\nbye\n", "line 3: 1 fields"),
        ("a.csv", 'label,text\na,hello\nb,"bye\na,the rows from here on\nb,are one text\n', "line 3: not CSV"),
        ("a.csv", 'text,"b\n1,2\n', "line 1: not CSV"),
        ("a.jsonl", '{"text": "a"}\n{"text": "bye \\ud83d"}', "line 2: half a character ('\\ud83d') after "),
        ("a.json", '[{"text":\n"bye \\ud83d"}]', ": half a character ('\\ud83d') after "),
        ("a.jsonl", '{"text": ' + "1" * 5000 + "}", "line 1: a number is too long"),
        ("a.json", "[" * 100_000, "line 1: a number is too long or lists are nested too deeply"),
        ("a.csv", "text,text\nhello,bye\n", "two columns have the name 'text'"),
        *[("a.jsonl", f'{{"text": "a"}}\n{row}\n', "line 2: expected an object") for row in NOT_OBJECTS],
        *[("a.json", f'[{{"text": "a"}}, {row}]', "row 2: expected an object") for row in NOT_OBJECTS],
    ],
)
def test_invalid_files(file, read, name, content, message):
    path = file(name, content)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}[^\n]*{re.escape(message)}[^\n]*\Z"):
        read(path)


@pytest.mark.parametrize(
    ("read", "name", "content", "message"),
    [
        (read_json, "a.json", '{"a": [],\n "b": }', "line 2, column 7: not JSON"),
        (
            read_columns,
            "a.jsonl",
            '{"text": "a", "label": 0}\n{"text": "b"}\n',
            "line 2: has the columns ['text'], the first row ['label', 'text']",
        ),
        (read_columns, "a.xlsx", "hello", "cannot read the suffix '.xlsx'; use one of .csv, .tsv, .jsonl, .json, .txt"),
        (texts, "a.jsonl", '{"text": 3}\n', "line 1: expected a text in column 'text', got 3"),
    ],
)
def test_invalid_rows(file, read, name, content, message):
    with pytest.raises(ValueError, match=rf"{name}[,:] {re.escape(message)}"):
        read(file(name, content))


@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,body\n1,x\n"), ("a.jsonl", '{"id": 1, "body": "x"}\n')])
def test_missing_text_column(file, name, content):
    with pytest.raises(ValueError, match=r"data\.text_column: .*, line \d has no column 'text'; it has 'id', 'body'"):
        texts(file(name, content))
