"""Files with anything in them: they are read, or refused in one line that names the file or the field.

``FUZZ_EXAMPLES=2000 pytest tests/data/test_fuzzing.py`` tries other examples, and more of them, in each test.
"""

import csv
import io
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_kd import CLINC150DataModule, SQuADDataModule, TextClassificationDataModule
from lightning_kd.data.label_indices import index_labels, infer_label_names
from lightning_kd.data.readers import read_columns, read_json, read_texts
from lightning_kd.data.squad_format import read_questions
from tests.helpers import TINY_BERT

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")

fuzz = settings(
    max_examples=int(EXAMPLES or 100),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),  # they are about speed
)

# halves of surrogate pairs, control characters, and what ends lines
ODD = list("ab1 é\ud83d\ude00\0\x1b\r\n\x0c\u2028\ufeff")
TEXTS = st.lists(st.sampled_from(ODD) | st.characters(), max_size=6).map("".join)
SCALARS = st.one_of(
    TEXTS, st.none(), st.booleans(), st.integers(), st.floats(), st.integers(-2, 5), st.integers(-2, 5).map(str)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)


@st.composite
def nearly(draw, valid, otherwise=VALUES, one_in=40):
    """Mostly what is expected in a place, sometimes anything."""
    return draw(otherwise if draw(st.integers(1, one_in)) == 2 else valid)


def entries(required, optional=None):
    """Objects with these entries, some of which may be missing or something else."""
    parts = st.fixed_dictionaries({}, optional={**required, **(optional or {})})
    return nearly(nearly(st.fixed_dictionaries(required, optional=optional), parts))


WORDS = nearly(nearly(st.sampled_from(["hello", "a b", "grüße", "1"]), TEXTS, 4))
LABELS = nearly(nearly(st.sampled_from(["a", "b", "1"]), SCALARS, 10))

ROWS = st.lists(entries({"text": WORDS}, {"label": LABELS}), max_size=4)
CELLS = st.lists(st.lists(st.one_of(st.sampled_from(["text", "label"]), TEXTS), max_size=3), max_size=4)


def write_cells(cells, delimiter=","):
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter).writerows(cells)
    return stream.getvalue()


STRINGS = st.one_of(
    TEXTS,
    st.text("ab\"',\t\r\n\0[]{}:1", max_size=30),
    VALUES.map(json.dumps),
    ROWS.map(json.dumps),
    ROWS.map(lambda rows: "\n".join(map(json.dumps, rows))),
    CELLS.map(write_cells),
    CELLS.map(lambda cells: write_cells([["text", "label"], *cells])),
    CELLS.map(lambda cells: write_cells([["text", "label"], *cells], "\t")),
)
CONTENTS = st.one_of(
    st.binary(),
    STRINGS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.builds(str.encode, STRINGS, st.sampled_from(["utf-8-sig", "utf-16", "latin1"]), st.just("replace")),
    st.builds(
        lambda text, position, inserted: text[:position] + inserted + text[position:],
        STRINGS.map(lambda text: text.encode(errors="replace")),
        st.integers(0, 30),
        st.binary(max_size=2),
    ),
)

ANSWERS = nearly(st.lists(entries({"text": WORDS, "answer_start": nearly(st.integers(-1, 12))}), max_size=2))
QAS = entries({"id": WORDS, "question": WORDS}, {"answers": ANSWERS, "is_impossible": VALUES})
PARAGRAPHS = entries({"context": WORDS, "qas": nearly(st.lists(QAS, max_size=2))})
ARTICLES = entries({"paragraphs": nearly(st.lists(PARAGRAPHS, max_size=2))})
SQUAD = entries({"data": nearly(st.lists(ARTICLES, max_size=2))})

EXAMPLES_OF_CLINC = nearly(st.lists(nearly(st.tuples(WORDS, LABELS)), max_size=3))
CLINC = entries(dict.fromkeys(("train", "val", "test"), EXAMPLES_OF_CLINC), {"oos_train": EXAMPLES_OF_CLINC})


def check(read, *names):
    """Read, and check a refusal; it must name one of these."""
    try:
        return read()
    except ValueError as error:
        refusal = error
    message = str(refusal)
    assert not isinstance(refusal, UnicodeError)
    assert message.isprintable(), message  # one line, without control characters
    assert any(str(name) in message for name in names), message
    assert len(message) < 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("anything")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "txt"])
@fuzz
@given(content=CONTENTS)
def test_readers(folder, suffix, content):
    file = folder / f"train.{suffix}"
    file.write_bytes(content)
    for read in (read_columns, read_json, lambda path: list(read_texts(path, "text"))):
        check(lambda read=read: read(file), file)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@fuzz
@given(content=CONTENTS, allow_unlabeled=st.booleans())
def test_text_classification(folder, suffix, content, allow_unlabeled):
    file = folder / f"labeled.{suffix}"
    file.write_bytes(content)
    for split in ("train", "predict"):
        data = TextClassificationDataModule(
            str(file), TINY_BERT, predict_path=str(file), allow_unlabeled=allow_unlabeled
        )
        check(lambda data=data, split=split: data.load(split), file, "data.label_column")


@pytest.mark.filterwarnings("ignore:.* training questions, the first is")
@fuzz
@given(content=SQUAD)
def test_squad(folder, content):
    file = folder / "train-v2.0.json"
    file.write_text(json.dumps(content))
    check(lambda: read_questions(file), file)
    check(lambda: SQuADDataModule(str(file), TINY_BERT, version="2.0").load("train"), file)


@fuzz
@given(content=CLINC)
def test_clinc150(folder, content):
    file = folder / "data_oos_plus.json"
    file.write_text(json.dumps(content))
    check(lambda: CLINC150DataModule(str(file), TINY_BERT).load("train"), file, "data.label_column")


@fuzz
@given(columns=st.lists(st.lists(LABELS, max_size=5), max_size=3), allow_unlabeled=st.booleans())
def test_labels(columns, allow_unlabeled):
    names = check(lambda: infer_label_names(columns), "data.label_column")
    for labels in columns if names is not None else []:
        indices = check(lambda labels=labels: index_labels(labels, names, "here", allow_unlabeled), "here, row ")
        for label, index in zip(labels, indices or [], strict=False):
            assert index == -100 or names[index] == str(label) or index == int(label)
    assert len(set(names or [])) == len(names or [])
