"""The temperature probe in short runs."""

import json

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForSequenceClassification

from lightning_kd import QuestionAnswering, TeacherCache, TemperatureProbe, TextClassificationDataModule
from lightning_kd.callbacks import StudentExport
from lightning_kd.losses import HardLabelLoss, SoftTargetLoss
from tests.helpers import (
    LABELS,
    TINY_BERT,
    FlipClassifierHead,
    best_checkpoint,
    clinc_rows,
    data,
    module,
    roberta_tokenizer,
    save_model,
    save_roberta,
    squad_data,
    tiny_bert,
    tiny_roberta,
    trainer,
)

SENTENCES = ["hello water :smile: good morning to you", "call me | something [else]"]


def probe(**settings):
    return TemperatureProbe(**{"sentences": SENTENCES, "temperatures": [1, 5], "top_k": 2, "bottom_k": 1, **settings})


def result(folder):
    return json.loads((folder / "probe.json").read_text())


def logits_of(model, tokenizer, texts):
    """Logits computed by transformers alone."""
    with torch.no_grad():
        return model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits.double()


@pytest.fixture(scope="module")
def run(folder):
    """A run whose best epoch is not the last; returns its folder and the module."""
    teacher = save_model(tiny_bert(layers=3, seed=1, initializer_range=0.5), folder / "sharp")
    logger = TensorBoardLogger(str(folder), name="", version="run")
    callbacks = [probe(), StudentExport(), best_checkpoint(), FlipClassifierHead()]
    run = trainer(folder, callbacks=callbacks, max_epochs=8, enable_checkpointing=True, logger=logger)
    student = tiny_bert(layers=1, seed=2, initializer_range=0.2).config.to_dict()
    losses = {"hard": HardLabelLoss(0.9), "soft": SoftTargetLoss(0.1, 2.0)}
    fitted = module(teacher, student={"config": student}, losses=losses)
    run.fit(fitted, data(folder / "data_oos_plus.json"))
    return folder / "run", fitted


def test_sentences_are_those_of_transformers(run, tokenizer):
    folder, _ = run
    content = result(folder)
    models = [
        AutoModelForSequenceClassification.from_pretrained(source)
        for source in (folder.parent / "sharp", folder / "student")
    ]
    assert [sentence["text"] for sentence in content["sentences"]] == SENTENCES
    for place, sentence in enumerate(content["sentences"]):
        own = [logits_of(model, tokenizer, SENTENCES)[place] for model in models]
        order = own[0].argsort(descending=True)
        assert sentence["classes"] == [LABELS[i] for i in order.tolist()]
        for view, logits in zip(sentence["model_probabilities"], own, strict=True):
            for number, temperature in enumerate(content["temperatures"]):
                expected = (logits / temperature).softmax(dim=-1)
                assert view["probabilities"][number] == pytest.approx(expected[order].tolist(), abs=1e-5)


def test_split_is_that_of_the_best_student(run, tokenizer):
    folder, fitted = run
    rows = json.loads((folder.parent / "data_oos_plus.json").read_text())
    texts, labels = zip(*(rows["val"] + rows["oos_val"]), strict=True)
    true = torch.tensor([LABELS.index(label) for label in labels])
    p = [
        (logits_of(AutoModelForSequenceClassification.from_pretrained(source), tokenizer, list(texts)) / 5).softmax(-1)
        for source in (folder.parent / "sharp", folder / "student")
    ]
    content = result(folder)
    assert content["num_examples"] == len(texts)
    assert content["accuracy"]["teacher"] == pytest.approx(fitted.teacher_scores["accuracy"])
    assert (
        content["accuracy"]["student"] > fitted.validation_scores()["val/accuracy"]
    )  # which is that of the last epoch
    assert content["agreement"] == pytest.approx(float((p[0].argmax(1) == p[1].argmax(1)).double().mean()))
    levels = {level["model"]: level for level in content["split_stats"] if level["temperature"] == 5}
    for name, own in zip(("teacher", "student"), p, strict=True):
        assert levels[name]["off_target_mass"] == pytest.approx(
            float((1 - own[range(len(true)), true]).mean()), abs=1e-5
        )
        assert levels[name]["entropy"] == pytest.approx(float(-(own * own.log()).sum(1).mean()), abs=1e-5)
    kl = float((p[0] * (p[0] / p[1]).log()).sum(1).mean())
    assert levels["student"]["kl_divergence"] == pytest.approx(kl, abs=1e-5)


def test_files_and_tensorboard(run):
    folder, _ = run
    assert (folder / "probe.png").read_bytes()[:4] == b"\x89PNG"
    assert "| (2nd - last) / 2nd, % |" in (folder / "probe.md").read_text()
    assert not list(folder.glob(".*"))
    events = EventAccumulator(str(folder))
    events.Reload()
    steps = [event.step for event in events.Images("probe")]
    assert len(steps) == 2
    assert steps[0] == 0 < steps[1]
    assert "probe/text_summary" in events.Tags()["tensors"]


def fit(folder, clinc_file, *callbacks, teacher=None, rows=None, **settings):
    fitted = module(teacher or tiny_bert(layers=3, seed=1), **settings)
    run = trainer(folder, callbacks=list(callbacks), max_steps=3)
    run.fit(fitted, rows or data(clinc_file))
    return fitted


def test_teacher_is_shown_before_the_first_step(tmp_path, clinc_file, capsys):
    class Stop(Callback):
        def on_train_batch_start(self, *_):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, clinc_file, probe(), Stop())
    content = result(tmp_path)
    assert [level["model"] for level in content["split_stats"]] == ["teacher"] * 2
    assert content["agreement"] is None
    assert "teacher: hello water :smile: good morning to you" in capsys.readouterr().out


def test_probe_does_not_change_training(tmp_path, clinc_file):
    without, beside = fit(tmp_path / "a", clinc_file), fit(tmp_path / "b", clinc_file, probe(sentences=None))
    for first, second in zip(without.student.parameters(), beside.student.parameters(), strict=True):
        assert torch.equal(first, second)


def test_most_and_least_confident_examples_of_the_test_split(tmp_path, clinc_file, tokenizer):
    teacher = save_model(tiny_bert(layers=3, seed=1, initializer_range=0.5), tmp_path / "teacher")
    fit(tmp_path, clinc_file, probe(sentences=None, num_examples=2, split="test"), teacher=teacher)
    content, rows = result(tmp_path), json.loads(clinc_file.read_text())
    texts = [text for text, _ in rows["test"] + rows["oos_test"]]
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    highest = logits_of(model, tokenizer, texts).softmax(-1).max(-1).values
    shown = [max(sentence["model_probabilities"][0]["probabilities"][0]) for sentence in content["sentences"]]
    ordered = highest.sort(descending=True).values
    assert shown == pytest.approx([*ordered[:2].tolist(), *ordered[-2:].tolist()], abs=1e-5)
    assert dict(rows["test"] + rows["oos_test"])[content["sentences"][0]["text"]] == content["sentences"][0]["label"]
    assert content["split"] == "test"


def test_ensemble(tmp_path, clinc_file):
    teachers = [save_model(tiny_bert(seed=seed), tmp_path / f"teacher{seed}") for seed in (1, 2)]
    fit(tmp_path, clinc_file, probe(), teacher=teachers)
    assert result(tmp_path)["sources"]["teacher"] == " + ".join(teachers)


def test_teacher_with_a_separate_tokenizer(tmp_path, clinc_file):
    """The teacher's results do not depend on the student's tokenizer."""
    teacher = save_model(tiny_bert(layers=3, seed=1, initializer_range=0.5), tmp_path / "teacher")
    other = roberta_tokenizer([text for text, _ in clinc_rows()["train"]], 290)
    student = save_roberta(tiny_roberta(LABELS, other), other, tmp_path / "roberta")
    rows = data(clinc_file, tokenizer=student, teacher_tokenizer=teacher)
    fit(tmp_path, None, probe(output_dir=str(tmp_path / "both")), teacher=teacher, student=student, rows=rows)
    fit(tmp_path, clinc_file, probe(output_dir=str(tmp_path / "own")), teacher=teacher)
    both, own = result(tmp_path / "both"), result(tmp_path / "own")
    assert both["split_stats"][:2] == [pytest.approx(level) for level in own["split_stats"][:2]]
    for ours, expected in zip(both["sentences"], own["sentences"], strict=True):
        assert ours["model_probabilities"][0]["second_probabilities"] == pytest.approx(
            expected["model_probabilities"][0]["second_probabilities"]
        )


@pytest.mark.parametrize("top_k", [None, 1])
def test_cached_teacher(tmp_path, clinc_file, top_k):
    teacher = save_model(tiny_bert(layers=3, seed=1, initializer_range=0.5), tmp_path / "teacher")
    for name in ("plain", "cached"):
        cache = TeacherCache(str(tmp_path / "cache"), top_k=top_k) if name == "cached" else None
        for _ in range(2):  # the second time all examples are cached
            shown = probe(output_dir=str(tmp_path / name))
            fitted = fit(tmp_path, clinc_file, shown, teacher=teacher, teacher_cache=cache)
    assert not fitted.teacher.models[0].is_loaded
    plain, cached = result(tmp_path / "plain"), result(tmp_path / "cached")
    for key in ("entropy", "off_target_mass", "calibration_error"):
        assert cached["split_stats"][0][key] == pytest.approx(plain["split_stats"][0][key], abs=1e-6)
    views = [content["sentences"][0]["model_probabilities"][0] for content in (plain, cached)]
    assert views[1]["relative_difference"] == pytest.approx(views[0]["relative_difference"], abs=1e-3)


def test_labels_in_another_order(tmp_path, clinc_file):
    """The same teacher with its classes reversed."""
    model = tiny_bert(layers=3, seed=1)
    turned = tiny_bert(labels=LABELS[::-1], layers=3, seed=1)
    turned.load_state_dict(model.state_dict())
    turned.classifier.weight.data = model.classifier.weight.data.flip(0)
    turned.classifier.bias.data = model.classifier.bias.data.flip(0)
    for name, teacher in (("own", model), ("turned", turned)):
        student = tiny_bert(layers=1, seed=4)
        fit(tmp_path, clinc_file, probe(output_dir=str(tmp_path / name)), teacher=teacher, student=student)
    own, other = result(tmp_path / "own"), result(tmp_path / "turned")
    assert own["split_stats"][0] == pytest.approx(other["split_stats"][0])
    assert own["sentences"][0]["classes"] == other["sentences"][0]["classes"]


def test_callback_in_several_fits(tmp_path, clinc_file):
    shown = probe()
    for name, callback, seed in (("first", shown, 1), ("second", shown, 2), ("fresh", probe(), 2)):
        fit(tmp_path / name, clinc_file, callback, teacher=tiny_bert(layers=3, seed=seed))
    assert result(tmp_path / "second") == result(tmp_path / "fresh") != result(tmp_path / "first")
    run = trainer(tmp_path / "no step", callbacks=[shown], max_steps=0)
    run.fit(module(tiny_bert(), lr_scheduler=None), data(clinc_file))
    assert not (tmp_path / "no step" / "probe.json").exists()


def test_failing_student_warns(tmp_path, clinc_file, monkeypatch):
    monkeypatch.setattr(TemperatureProbe, "_collect_student_logits", lambda *args: 1 / 0)
    with pytest.warns(UserWarning, match=r"only the teacher is shown \(ZeroDivisionError"):
        fit(tmp_path, clinc_file, probe())
    assert result(tmp_path)["agreement"] is None


def assert_rejected(tmp_path, message, rows, **settings):
    run = trainer(tmp_path, callbacks=[probe()])
    with pytest.raises(ValueError, match=message):
        run.fit(module(**settings), rows)
    assert run.global_step == 0
    assert not (tmp_path / "probe.md").exists()


def test_no_loss_that_uses_a_teacher(tmp_path, clinc_file):
    assert_rejected(tmp_path, "TemperatureProbe: no loss uses a teacher", data(clinc_file), teacher=None)


def test_task_whose_classes_have_no_names(tmp_path, squad_folder):
    message, task = r"TemperatureProbe: requires .* QuestionAnswering", QuestionAnswering()
    assert_rejected(tmp_path, message, squad_data(squad_folder), teacher=None, task=task)


def test_pairs_of_texts(tmp_path):
    table = "text,other,label\n" + "good morning,to you,greet\nsee you,later,leave\n" * 4
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(table)
    settings = {"tokenizer": str(TINY_BERT), "text_columns": ["text", "other"], "batch_size": 2}
    rows = TextClassificationDataModule(str(tmp_path), **settings)
    teacher = tiny_bert(labels=["greet", "leave"])
    assert_rejected(tmp_path, r"sentences: an example of .* has 2 texts \(text, text_pair\)", rows, teacher=teacher)
    fit(tmp_path, None, probe(sentences=None, num_examples=1), teacher=teacher, rows=rows)
    assert result(tmp_path)["sentences"][0]["text"] in ("good morning | to you", "see you | later")
