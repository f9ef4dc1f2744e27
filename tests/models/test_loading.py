"""Loading models and tokenizers, and errors that name the model and a remedy."""

import pytest
import torch

from lightning_kd import models
from tests.helpers import LABELS, save_model, tiny_bert

CLASSIFIER = "AutoModelForSequenceClassification"


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


def replace(old, new):
    return lambda file: file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("file", "damage", "detail"),
    [
        ("model.safetensors", lambda file: file.unlink(), "model.safetensors"),
        ("model.safetensors", cut, "incomplete"),
        ("model.safetensors", lambda file: file.write_bytes(b""), "header"),
        ("config.json", lambda file: file.write_text("{"), "not a valid JSON file"),
        ("config.json", lambda file: file.write_text("{}"), "model_type"),
        ("config.json", replace('"bert"', '"brt"'), "brt"),
        ("config.json", replace('"gelu"', '"gelo"'), "gelo"),
        ("config.json", replace('"hidden_size": 16', '"hidden_size": "16"'), "hidden_size"),
    ],
)
def test_damaged_folder(tmp_path, file, damage, detail):
    folder = save_model(tiny_bert(), tmp_path / "my teacher")
    damage(tmp_path / "my teacher" / file)
    with pytest.raises(OSError, match=r"^teacher '.*my teacher' exists but cannot be loaded: .+") as caught:
        models.load_model(folder, CLASSIFIER, "teacher")
    assert detail in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["no/where", "nobody", "some/where/else", "./nothing", "/no where"])
def test_missing_source(source):
    for load, role in (
        (lambda: models.load_model(source, CLASSIFIER, "student"), "student"),
        (lambda: models.load_config(source, "student config"), "student config"),
        (lambda: models.load_tokenizer(source, "tokenizer"), "tokenizer"),
    ):
        with pytest.raises(OSError, match=rf"^{role} '{source}' is neither a local folder nor.*path of a local folder"):
            load()


def test_pin_revisions(tmp_path, add_to_hub_cache):
    folder = save_model(tiny_bert(), tmp_path / "model")
    for commit, branch in (("a" * 40, "main"), ("b" * 40, "v2")):
        add_to_hub_cache(folder, "some/body", commit, branch)
    main = {"pretrained": "some/body", "revision": "a" * 40}
    old = {"pretrained": "some/body", "revision": "b" * 40, "dtype": "bfloat16"}
    for source, expected in (
        ("some/body", main),
        (main, main),
        ({**old, "revision": "v2"}, old),
        (["some/body", folder], [main, folder]),
        ({"ensemble": ["some/body"], "combine": "confidence"}, {"ensemble": [main], "combine": "confidence"}),
    ):
        assert models.pin_revisions(source, "teacher") == expected
    for source in (folder, {"pretrained": folder}, {"config": "some/body"}, tiny_bert(), None):
        assert models.pin_revisions(source, "student") is source


def test_folder_without_tokenizer(tmp_path):
    """transformers 5 returns a tokenizer of five special tokens, for which every word is unknown."""
    tiny_bert().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"tokenizer '.*' exists but cannot be loaded: .*vocabulary"):
        models.load_tokenizer(str(tmp_path), "tokenizer")


@pytest.mark.parametrize("content", ["{", "{}"])
def test_folder_with_damaged_tokenizer(tmp_path, content):
    folder = save_model(tiny_bert(), tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(OSError, match=r"teacher tokenizer '.*' exists but cannot be loaded"):
        models.load_tokenizer(folder, "teacher tokenizer")


OPTIONS = {
    "trust_remote_code": True,
    "use_kernels": True,
    "allow_all_kernels": True,
    "auto_map": {"AutoConfig": "code.Config"},
    "attn_implementation": "some/kernel",
    "_attn_implementation_internal": {"text_config": "some/kernel"},
}


@pytest.mark.parametrize(
    "nest",
    [
        lambda options: options,
        lambda options: {"pretrained": "some/model", **options},
        lambda options: ["some/model", {"pretrained": "some/model", **options}],
        lambda options: {"ensemble": ("some/model", {"pretrained": "some/model", **options}), "combine": "logits"},
        lambda options: {"config": {"model_type": "bert", "text_config": options}},
    ],
    ids=["options", "pretrained", "list", "ensemble", "configuration"],
)
@pytest.mark.parametrize("name", OPTIONS)
def test_option_by_which_code_would_run_is_found(name, nest):
    assert models.find_code_option(nest({"revision": "main", name: OPTIONS[name]})) == f"{name}: {OPTIONS[name]!r}"


@pytest.mark.parametrize(
    "options",
    [{"attn_implementation": "sdpa"}, {"revision": "main"}, {"trust_remote_code": False}, {"auto_map": None}],
    ids=str,
)
def test_option_by_which_no_code_runs(options):
    for value in ("some/model", {"pretrained": "some/model", **options}, [{"pretrained": "some/model", **options}]):
        assert models.find_code_option(value) is None


def test_model_is_float32_and_in_eval_mode(tmp_path):
    folder = save_model(tiny_bert().half(), tmp_path)
    model = models.load_model(folder, CLASSIFIER, "teacher")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


def test_head_of_another_size_is_replaced(tmp_path):
    saved = tiny_bert(labels=["a", "b"])
    model, fresh = models.load_for_training(save_model(saved, tmp_path), CLASSIFIER, "student", LABELS)
    assert fresh == ["classifier.bias", "classifier.weight"]
    assert model.classifier.out_features == 3
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {"greet": 0, "leave": 1, "oos": 2}
    assert torch.equal(model.bert.pooler.dense.weight, saved.bert.pooler.dense.weight)
