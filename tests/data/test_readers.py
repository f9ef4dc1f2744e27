"""Readers of local files, and errors that name file and line."""

import json
import re

import pytest

from lightning_kd.data.readers import read_columns, read_json, read_texts


def texts(path, column="text"):
    return list(read_texts(path, column))


def error_message(path, read=read_columns):
    """Return the message of a reader's error: one line that starts with the path."""
    with pytest.raises(ValueError, match="^" + re.escape(str(path))) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_csv(file):
    path = file("a.csv", 'text,label\n"hello, you",a\n"she said ""hi""",b\n"two\nlines",c\n\n,d\n')
    expected = ["hello, you", 'she said "hi"', "two\nlines", ""]
    assert read_columns(path) == {"text": expected, "label": ["a", "b", "c", "d"]}
    assert texts(path) == expected[:3]


def test_tsv_treats_quotation_marks_as_characters(file):
    path = file("a.tsv", 'text\tlabel\n"hello, you\ta\nhe said "hi"\tb\n""\tc\n')
    assert read_columns(path) == {"text": ['"hello, you', 'he said "hi"', '""'], "label": ["a", "b", "c"]}
    assert texts(path) == ['"hello, you', 'he said "hi"', '""']


def test_json_lines_and_json_array(file):
    rows = [{"text": "héllo", "label": 1}, {"label": None, "text": "two\nlines"}]
    columns = {"text": ["héllo", "two\nlines"], "label": [1, None]}
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows)
    assert read_columns(file("a.jsonl", lines)) == columns
    assert read_columns(file("b.json", lines)) == columns
    assert read_columns(file("c.json", json.dumps(rows, indent=2))) == columns
    assert texts(file("a.jsonl", lines)) == columns["text"]


def test_plain_text_without_blank_lines(file):
    path = file("a.txt", "hello\n\n  \ngrüß dich\r\nlast")
    assert read_columns(path) == {"text": ["hello", "grüß dich", "last"]}
    assert texts(path, "any column") == ["hello", "grüß dich", "last"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_byte_order_mark_is_removed(file, name):
    content = b"\xef\xbb\xbf" + (b"" if name == "a.txt" else b"text\r\n") + b"hello\r\n"
    assert read_columns(file(name, content)) == {"text": ["hello"]}


def test_byte_order_mark_in_json(file):
    assert read_columns(file("a.json", b'\xef\xbb\xbf[{"text": "hello"}]')) == {"text": ["hello"]}


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
        (
            "a.txt",
            b"text\nfine\nna\xefve\n",
            "line 3: not UTF-8 (byte 0xef); convert the file, for instance",
        ),
        ("a.jsonl", b'{"text": "fine"}\n\n{"text": "na\xefve"}\n', "line 3: not UTF-8 (byte 0xef)"),
        ("a.txt", "hello".encode("utf-16"), "iconv -f utf-16"),
        ("a.jsonl", '{"text": "a"}\n{"text": b}\n', "line 2, column 10: not JSON"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2, column 10: not JSON"),
        ("a.json", '[{"text": "a"},\n{"text": "b"}\n{"text": "c"}]', "line 3, column 1: not JSON"),
        ("a.csv", 'text,label\n"two\nlines",a\n\nbye\n', "line 5: 1 fields where the header has 2 (text, label)"),
        ("a.csv", 'text,label\n"two\nlines",a\n\nbye,b,c\n', "line 5: 3 fields where the header has 2 (text, label)"),
        ("a.tsv", "text\tlabel\nhello\ta\nbye\n", "line 3: 1 fields"),
        ("a.csv", 'label,text\na,hello\nb,"bye\na,the rows from here on\nb,are one text\n', "line 3: not CSV"),
        ("a.csv", 'text,"b\n1,2\n', "line 1: not CSV"),
        ("a.csv", "text,text\nhello,bye\n", "two columns have the name 'text'"),
        *[("a.jsonl", f'{{"text": "a"}}\n{row}\n', "line 2: expected an object") for row in NOT_OBJECTS],
        *[("a.json", f'[{{"text": "a"}}, {row}]', "row 2: expected an object") for row in NOT_OBJECTS],
    ],
)
def test_invalid_files(file, read, name, content, message):
    assert message in error_message(file(name, content), read)


def test_invalid_json_object(file):
    assert "line 2, column 7: not JSON" in error_message(file("c.json", '{"a": [],\n "b": }'), read_json)


def test_rows_with_different_columns(file):
    message = error_message(file("a.jsonl", '{"text": "a", "label": 0}\n{"text": "b"}\n'))
    assert "line 2: has the columns ['text'], the first row ['label', 'text']" in message


@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,body\n1,x\n"), ("a.jsonl", '{"id": 1, "body": "x"}\n')])
def test_missing_text_column(file, name, content):
    with pytest.raises(ValueError, match=r"data\.text_column: .*, line \d has no column 'text'; it has 'id', 'body'"):
        texts(file(name, content))


def test_text_that_is_not_a_string(file):
    assert "line 1: expected a text in column 'text', got 3" in error_message(file("a.jsonl", '{"text": 3}\n'), texts)


def test_unknown_suffix(file):
    message = error_message(file("a.xlsx", "hello"))
    assert "'.xlsx'" in message
    assert ".csv, .tsv, .jsonl, .json, .txt" in message
