"""Encodings change only with ``ENCODING_VERSION``, which is part of the cache keys."""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import lightning_kd.data
from lightning_kd import (
    CLINC150DataModule,
    MaskedLMDataModule,
    SQuADDataModule,
    SST2DataModule,
    TextClassificationDataModule,
)
from lightning_kd.data import TextDataModule
from tests.helpers import squad

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONG = "The old water mill by the bridge is where we met the miller, who told us about the flood of the year before."
TEXTS = ["Where is the water?", LONG, "  bridge over\ttroubled Water 42  ", "xylophone \u4e2d \u00e9t\u00e9", "mill"]


def word_pieces(*words):
    """Build a tokenizer with few words and all letters, independent of any file."""
    vocabulary = [*SPECIAL, *words, *LETTERS, *(f"##{letter}" for letter in LETTERS), *".,?"]
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, model_input_names=inputs, **names)


STUDENT = partial(word_pieces, "the", "water", "bridge", "mill", "##er", "is", "where")


def table(folder, separator, *columns):
    """Write the same table as training and validation split."""
    lines = [separator.join(row) for row in zip(*columns, strict=True)]
    for split in ("train", "dev"):
        (folder / f"{split}.{'tsv' if separator == chr(9) else 'csv'}").write_text("\n".join(lines), encoding="utf-8")
    return folder


def quoted(name, values):
    return [name, *(f'"{value}"' for value in values)]


LABELS = ["label", "b", "a", "b", "c", "a"]


def classification(folder, **settings):
    path = table(folder, ",", quoted("text", TEXTS), quoted("other", TEXTS[::-1]), LABELS)
    return TextClassificationDataModule(str(path), STUDENT(), max_length=16, **settings)


def sst2(folder):
    path = table(folder, "\t", ["sentence", *(text.replace("\t", " ") for text in TEXTS)], ["label", *"10110"])
    return SST2DataModule(str(path), STUDENT(), max_length=16)


def clinc150(folder):
    rows = [[text, label] for text, label in zip(TEXTS, ["transfer", "oos", "transfer", "yes", "no"], strict=True)]
    file = folder / "data_oos_plus.json"
    file.write_text(json.dumps({"train": rows, "val": rows, "test": rows, "oos_train": rows[1:2]}), encoding="utf-8")
    return CLINC150DataModule(str(file), STUDENT(), max_length=16)


def questions(folder, version="1.1", **settings):
    answered = [("Where?", ["by the bridge", "bridge"]), ("  who met us?", ["miller"]), ("What?", ["ill by"])]
    rows = [
        {"id": str(number), "question": question, "context": LONG, "answers": answers}
        for number, (question, answers) in enumerate(answered + [("Why?", [])] * (version == "2.0"))
    ]
    for split in ("train", "dev"):
        (folder / f"{split}-v{version}.json").write_text(json.dumps(squad(rows)), encoding="utf-8")
    return SQuADDataModule(str(folder), STUDENT(), version=version, max_length=24, stride=6, **settings)


def masked(folder, **settings):
    for split in ("train", "dev"):
        file = folder / f"{split}.txt"
        file.write_text("\n".join([*TEXTS, "", LONG.upper()]), encoding="utf-8")
        os.utime(file, (0, 0))
    return MaskedLMDataModule(str(folder), STUDENT(), max_length=16, dynamic_masking=False, **settings)


# name: (builds the DataModule in a folder, checksum of its batches)
SAMPLES = {
    "CLINC150": (clinc150, "200bc7e7729d2fb2"),
    "SST-2": (sst2, "71f57944b8e719d9"),
    "texts": (classification, "b20a6884ba8aa4a3"),
    "pairs": (partial(classification, text_columns=["text", "other"]), "450b289e82266e4d"),
    "prompts": (
        partial(classification, prompt='say "{text}"', teacher_prompt="the intent of {text} is"),
        "efd3bb3f33a514f4",
    ),
    "texts for a teacher": (partial(classification, teacher_tokenizer=word_pieces()), "fe40bfcf70d6b24b"),
    "SQuAD 1.1": (questions, "d5406b061ec41c23"),
    "SQuAD 2.0": (partial(questions, version="2.0"), "c05b5326013b3aa2"),
    "SQuAD for a teacher": (partial(questions, teacher_tokenizer=word_pieces()), "5d919bdfa6d7d83f"),
    "joined texts": (masked, "ee071aab512103c6"),
    "line by line": (partial(masked, line_by_line=True), "93257f4a27a86ebb"),
    "whole words": (partial(masked, whole_word_masking=True), "88f0e00390319ddd"),
    "smoothed masks": (partial(masked, mlm_smoothing=0.5), "90a4508dfe892711"),
    "masks for a teacher": (partial(masked, teacher_prompt="where is {text} ?"), "74afdf3f330bfb9e"),
}


def to_lists(value):
    if isinstance(value, dict):
        return {name: to_lists(each) for name, each in value.items()}
    if isinstance(value, list):
        return [to_lists(each) for each in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def all_batches(data):
    """Return all batches of both splits as lists."""
    torch.manual_seed(7)  # seeds the masks
    data.setup("fit")
    loaders = [
        data.subset_dataloader(split, range(len(data.row_lengths(split))), batch_size=2)
        for split in ("train", "validation")
    ]
    return [to_lists(dict(batch)) for loader in loaders for batch in loader]


@pytest.mark.parametrize("name", SAMPLES)
def test_checksum_of_the_encoding(name, tmp_path):
    make, stored = SAMPLES[name]
    data = make(tmp_path)
    checksum = hashlib.sha256(json.dumps(all_batches(data), sort_keys=True).encode()).hexdigest()[:16]
    versioned = next(cls for cls in type(data).__mro__ if "ENCODING_VERSION" in vars(cls))
    assert checksum == stored, (
        f"the encoding of {name!r} has changed: raise ENCODING_VERSION of {versioned.__name__} "
        f"(of TextDataModule if all samples have changed), so that caches are filled again, and store {checksum!r} here"
    )


def test_each_datamodule_has_a_sample(tmp_path_factory):
    exported = {getattr(lightning_kd.data, name) for name in lightning_kd.data.__all__}
    kinds = {kind for kind in exported if issubclass(kind, TextDataModule) and kind is not TextDataModule}
    assert kinds == {type(make(tmp_path_factory.mktemp("sample"))) for make, _ in SAMPLES.values()}


def cache_keys(folder):
    """Return the cache keys of three DataModules."""
    keys = []
    for make in (sst2, questions, masked):
        (folder / make.__name__).mkdir(exist_ok=True)
        data = make(folder / make.__name__)
        torch.manual_seed(7)
        data.setup("fit")
        keys.append(data.cache_key("train"))
    return keys


def test_key_does_not_depend_on_our_source_files(tmp_path):
    copy = shutil.copytree(Path(lightning_kd.__file__).parent, tmp_path / "copy" / "lightning_kd")
    for file in copy.rglob("*.py"):
        file.write_text(f"{file.read_text(encoding='utf-8')}\n# another line\n", encoding="utf-8")
    keys = cache_keys(tmp_path)
    code = f"""
import sys
from pathlib import Path
import datasets
datasets.config.HF_DATASETS_CACHE = {str(tmp_path / "cache")!r}
import lightning_kd
from tests.data.test_encoding_version import cache_keys
print(lightning_kd.__file__, *cache_keys(Path({str(tmp_path)!r})), sep="\\n")
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(copy.parent), str(Path(__file__).parents[2])])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    file, *others = done.stdout.splitlines()[-4:]
    assert Path(file).is_relative_to(copy)
    assert others == keys


@pytest.mark.parametrize("cls", [TextDataModule, TextClassificationDataModule, SST2DataModule])
def test_version_changes_the_key_of_the_class_and_its_subclasses(cls, tmp_path, monkeypatch):
    before = cache_keys(tmp_path)
    monkeypatch.setattr(cls, "ENCODING_VERSION", 2, raising=False)
    changed = [key != other for key, other in zip(cache_keys(tmp_path), before, strict=True)]
    assert changed == [True, cls is TextDataModule, cls is TextDataModule]


def test_version_changes_the_key_of_a_corpus(tmp_path, monkeypatch):
    before = masked(tmp_path).load("train")
    monkeypatch.setattr(MaskedLMDataModule, "ENCODING_VERSION", 2)
    monkeypatch.setattr("lightning_kd.data.text_source.read_texts", lambda file, column: iter(["another reading"]))
    after = masked(tmp_path).load("train")
    assert after["text"][:] == ["another reading"]
    assert after._fingerprint != before._fingerprint


CUSTOM = """
from lightning_kd import CLINC150DataModule

class Custom(CLINC150DataModule):
    def encode(self, rows):
        return super().encode({**rows, "text": [text + "%s" for text in rows["text"]]})
"""


@pytest.mark.parametrize("change", ["source", "version"])
def test_source_of_a_users_class_changes_the_key(change, tmp_path, monkeypatch):
    path = clinc150(tmp_path).path

    def key():
        data = module.Custom(path, STUDENT())
        data.setup("fit")
        return data.cache_key("train")

    file = tmp_path / "users_datamodule.py"
    file.write_text(CUSTOM % "a")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("users_datamodule")
    before = key()
    assert key() == before
    if change == "version":
        module.Custom.ENCODING_VERSION = 2
    else:
        file.write_text(CUSTOM % "another")
        module = importlib.reload(module)
    after = key()
    del sys.modules["users_datamodule"]
    assert after != before
