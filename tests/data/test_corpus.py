"""Texts out of files, one line at a time."""

import pytest

from lightning_kd.data.readers import CORPUS_SUFFIXES, find_split_files, read_texts


def test_lines(write):
    file = write({"a.txt": "\ufeffHello\n\n  \nGrüße, 你好\r\nlast one\x0cwith a form feed"}) / "a.txt"
    assert list(read_texts(file, "text")) == ["Hello", "Grüße, 你好", "last one\x0cwith a form feed"]


def test_csv_with_line_ends_in_fields(write):
    file = write({"a.csv": 'id,body\n1,"one\nand two, three"\n2,\n3,"say ""hi"""\n'}) / "a.csv"
    assert list(read_texts(file, "body")) == ["one\nand two, three", 'say "hi"']


def test_tsv_and_json_lines(write):
    folder = write({"a.tsv": 'x\ttext\n1\ta "quoted word\n', "b.jsonl": '{"text": "né"}\n\n{"text": "b", "n": 1}\n'})
    assert list(read_texts(folder / "a.tsv", "text")) == ['a "quoted word']
    assert list(read_texts(folder / "b.jsonl", "text")) == ["né", "b"]


def test_reading_stops_where_it_is_told_to(write):
    file = write({"a.txt": "one\ntwo\n" + "more\n" * 10_000}) / "a.txt"
    file.write_bytes(file.read_bytes() + b"\xff\n")
    texts = read_texts(file, "text")
    assert [next(texts), next(texts)] == ["one", "two"]  # the broken line far below has not been read


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_line_that_is_not_utf8(write, name):
    file = write({name: ""}) / name
    file.write_bytes(b"text\nfine\nna\xefve\n" if name != "a.jsonl" else b'{"text": "fine"}\n\n{"text": "na\xefve"}\n')
    with pytest.raises(ValueError, match=rf"{name}, line 3: not UTF-8 \(byte 0xef\); convert the file, for .*iconv"):
        list(read_texts(file, "text"))


@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,body\n1,x\n"), ("a.jsonl", '{"id": 1, "body": "x"}\n')])
def test_missing_column_names_those_there_are(write, name, content):
    file = write({name: content}) / name
    with pytest.raises(ValueError, match=r"data\.text_column: .*, line \d: no column 'text'; it has 'id', 'body'"):
        list(read_texts(file, "text"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,text\n1,x\n2\n", r"line 3: 1 fields where the header has 2 \(a, text\)"),
        ("a.csv", 'text\n"x\n', "not CSV .*is a quotation mark missing"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', r"line 2, column 10: not JSON"),
        ("a.jsonl", '{"text": 3}\n', r"line 1: expected .*text"),
        ("a.jsonl", '["x"]\n', r"line 1: expected .*text"),
    ],
)
def test_broken_tables(write, name, content, message):
    file = write({name: content}) / name
    with pytest.raises(ValueError, match=message):
        list(read_texts(file, "text"))


def test_utf16_names_its_own_conversion(write):
    file = write({"a.txt": "hello".encode("utf-16")}) / "a.txt"
    with pytest.raises(ValueError, match="iconv -f utf-16"):
        list(read_texts(file, "text"))


def test_header_that_is_broken(write):
    file = write({"a.csv": 'text,"b\n1,2\n'}) / "a.csv"
    with pytest.raises(ValueError, match=r"a\.csv, line \d: not CSV"):
        list(read_texts(file, "text"))


def test_files_named_after_splits(write):
    folder = write({"wiki.train.raw": "a", "wiki.valid.raw": "b", "test.csv": "text\nc", "notes.md": "d", "x.txt": "e"})
    files = find_split_files(folder, CORPUS_SUFFIXES)
    assert {split: file.name for split, file in files.items()} == {
        "train": "wiki.train.raw",
        "validation": "wiki.valid.raw",
        "test": "test.csv",
    }
    assert find_split_files(folder / "x.txt", CORPUS_SUFFIXES) == {"train": folder / "x.txt"}
    assert find_split_files(folder / "wiki.valid.raw", CORPUS_SUFFIXES) == {"validation": folder / "wiki.valid.raw"}


def test_files_that_are_none(write):
    folder = write({"train.txt": "a", "train.csv": "text\nb", "c.pdf": ""})
    with pytest.raises(ValueError, match=r"both train\.csv and train\.txt are the train split; remove one"):
        find_split_files(folder, CORPUS_SUFFIXES)
    with pytest.raises(ValueError, match=r"c\.pdf: cannot read the suffix '\.pdf'; use one of \.txt, \.raw, \.csv"):
        find_split_files(folder / "c.pdf", CORPUS_SUFFIXES)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no file named after a split; expected for instance train\.txt"):
        find_split_files(folder / "empty", CORPUS_SUFFIXES)
