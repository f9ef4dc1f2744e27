"""Local files of every kind, and what is said of those that cannot be read."""

import json
import re

import pytest

from lightning_kd.data.readers import read_columns, read_json, read_splits


@pytest.fixture
def file(write):
    return lambda name, content: write({name: content}) / name


def error_message(path, read=read_columns):
    """The message with which a file is refused: one line that begins with its path."""
    with pytest.raises(ValueError, match="^" + re.escape(str(path))) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_csv(file):
    path = file("a.csv", 'text,label\n"hello, you",a\n"she said ""hi""",b\n"two\nlines",c\n\nbye,d\n')
    assert read_columns(path) == {
        "text": ["hello, you", 'she said "hi"', "two\nlines", "bye"],
        "label": ["a", "b", "c", "d"],
    }


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_byte_order_mark_is_no_part_of_the_first_column(file, name):
    assert read_columns(file(name, b"\xef\xbb\xbftext\r\nhello\r\n")) == {"text": ["hello"]}


def test_byte_order_mark_in_json(file):
    assert read_columns(file("a.json", b'\xef\xbb\xbf[{"text": "hello"}]')) == {"text": ["hello"]}


def test_quotation_marks_in_tsv_are_plain_characters(file):
    path = file("a.tsv", 'text\tlabel\n"hello, you\ta\nhe said "hi"\tb\n""\tc\n')
    assert read_columns(path) == {"text": ['"hello, you', 'he said "hi"', '""'], "label": ["a", "b", "c"]}


def test_json_lines_and_json_array(file):
    rows = [{"text": "héllo", "label": 1}, {"label": None, "text": "two\nlines"}]
    columns = {"text": ["héllo", "two\nlines"], "label": [1, None]}
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows)
    assert read_columns(file("a.jsonl", lines)) == columns
    assert read_columns(file("b.json", lines)) == columns
    assert read_columns(file("c.json", json.dumps(rows, indent=2))) == columns


def test_txt_is_a_text_per_line_without_the_blank_ones(file):
    assert read_columns(file("a.txt", "hello\n\n  \ngrüß dich\r\n")) == {"text": ["hello", "grüß dich"]}


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0c"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "text\n{}\n"), ("a.tsv", "text\n{}\n"), ("a.jsonl", '{{"text": "{}"}}\n'), ("a.txt", "{}\n")],
)
def test_only_line_feeds_end_lines(file, name, content, separator):
    text = f"good{separator}morning"
    escaped = text.replace("\x0c", "\\f") if name.endswith("jsonl") else text  # JSON has no bare control characters
    assert read_columns(file(name, content.format(escaped))) == {"text": [text]}


def test_long_texts_are_read_whole(file):
    text = "word " * 40_000
    assert read_columns(file("a.csv", f"text\n{text}\n")) == {"text": [text]}


def test_paths_with_spaces_and_other_alphabets(write):
    folder = write({"meine Daten/Ελληνικά 数据/train.csv": "text\nhello\n"}) / "meine Daten" / "Ελληνικά 数据"
    assert read_splits(folder) == {"train": {"text": ["hello"]}}


def test_not_utf8_names_line_and_byte(file):
    message = error_message(file("a.csv", b"text,label\nhello,a\ncaf\xe9,b\n"))
    assert "line 3: not UTF-8 (byte 0xe9)" in message
    assert "iconv" in message


def test_not_utf8_after_a_byte_order_mark_names_line_and_byte(file):
    assert "line 2: not UTF-8 (byte 0xe9)" in error_message(file("a.csv", b"\xef\xbb\xbftext\n\xe9t\xe9\n"))


def test_broken_json_names_line_and_column(file):
    assert "line 2, column 10: not JSON" in error_message(file("a.jsonl", '{"text": "a"}\n{"text": b}\n'))
    assert "line 3, column 1: not JSON" in error_message(
        file("b.json", '[{"text": "a"},\n{"text": "b"}\n{"text": "c"}]')
    )
    assert "line 2, column 7: not JSON" in error_message(file("c.json", '{"a": [],\n "b": }'), read_json)


@pytest.mark.parametrize("row", ["bye", "bye,b,c"])
def test_csv_row_with_another_number_of_fields_names_the_line(file, row):
    message = error_message(file("a.csv", f'text,label\n"two\nlines",a\n\n{row}\n'))
    assert f"line 5: {row.count(',') + 1} fields where the header has 2 (text, label)" in message


def test_tsv_row_with_another_number_of_fields_names_the_line(file):
    assert "line 3: 1 fields" in error_message(file("a.tsv", "text\tlabel\nhello\ta\nbye\n"))


def test_quotation_mark_that_never_ends_is_refused(file):
    assert "line" in error_message(
        file("a.csv", 'label,text\na,hello\nb,"bye\na,the rows from here on\nb,are one text\n')
    )


def test_two_columns_of_one_name_are_refused(file):
    assert "'text'" in error_message(file("a.csv", "text,text\nhello,bye\n"))


@pytest.mark.parametrize("row", ['["hello"]', '"hello"', "3", "null"])
def test_row_that_is_no_object_is_named(file, row):
    assert "line 2: expected an object" in error_message(file("a.jsonl", f'{{"text": "a"}}\n{row}\n'))
    assert "row 2: expected an object" in error_message(file("b.json", f'[{{"text": "a"}}, {row}]'))


def test_row_with_other_columns_is_named(file):
    message = error_message(file("a.jsonl", '{"text": "a", "label": 0}\n{"text": "b"}\n'))
    assert "line 2: has the columns ['text'], the first row ['label', 'text']" in message


def test_unknown_suffix_names_the_known_ones(file):
    message = error_message(file("a.xlsx", "hello"))
    assert "'.xlsx'" in message
    assert ".csv, .tsv, .jsonl, .json, .txt" in message


def test_file_is_the_split_it_is_named_after_else_train(file):
    assert list(read_splits(file("dev.csv", "text\na\n"))) == ["validation"]
    assert list(read_splits(file("test.jsonl", '{"text": "a"}'))) == ["test"]
    assert list(read_splits(file("reviews.csv", "text\na\n"))) == ["train"]


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_names_of_the_validation_split(write, name):
    folder = write({"train.csv": "text\na\n", f"{name}.tsv": "text\nb\n", "README.md": "other files are left alone"})
    assert read_splits(folder) == {"train": {"text": ["a"]}, "validation": {"text": ["b"]}}


def test_folder_without_splits_is_refused(write):
    assert "expected for instance train.csv" in error_message(write({"reviews.csv": "text\na\n"}), read_splits)


def test_two_files_for_a_split_are_refused(write):
    message = error_message(write({"dev.csv": "text\na\n", "val.tsv": "text\na\n"}), read_splits)
    assert "both dev.csv and val.tsv are the validation split" in message
