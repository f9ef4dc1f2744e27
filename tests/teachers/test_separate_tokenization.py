"""Teachers with a separate tokenization: a BERT teaches a RoBERTa, a prompt is internalized."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import (
    AutoConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    RobertaForQuestionAnswering,
)

from lightning_kd import DistillationModule, MaskedLM, QuestionAnswering, SequenceClassification
from lightning_kd.callbacks import CompressionReport, StudentExport
from lightning_kd.losses import HiddenStateMSELoss, SoftTargetLoss, soft_target_loss
from tests.helpers import (
    LABELS,
    TINY_BERT,
    clinc_rows,
    data,
    mlm_data,
    module,
    roberta_tokenizer,
    save_model,
    save_roberta,
    squad_data,
    squad_questions,
    tiny_bert,
    tiny_roberta,
    trainer,
)

LARGE_INIT = {"initializer_range": 0.6}
SMALL_BERT = {"config": str(TINY_BERT), "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def byte_tokenizer():
    """With a small vocabulary that splits most words."""
    texts = [text for text, _ in clinc_rows()["train"]] + [row["context"] for row in squad_questions("t")]
    return roberta_tokenizer(texts, 290)


@pytest.fixture
def student(tmp_path, byte_tokenizer):
    return save_roberta(tiny_roberta(LABELS, byte_tokenizer), byte_tokenizer, tmp_path / "roberta")


@pytest.fixture
def teacher(tmp_path):
    return save_model(tiny_bert(seed=1, **LARGE_INIT), tmp_path / "bert")


def fit(tmp_path, fitted, datamodule, **settings):
    """Train, and return the logged metrics."""
    run = trainer(tmp_path, **settings)
    run.fit(fitted, datamodule)
    return {name: float(value) for name, value in run.callback_metrics.items()}


# ---- classification


def test_bert_teaches_a_roberta(tmp_path, clinc_file, teacher, student, tokenizer):
    """The teacher's score and logits are those with its tokenizer."""
    same = module(teacher, student=dict(SMALL_BERT))
    fit(tmp_path, same, data(clinc_file), max_steps=1)
    fitted = module(teacher, student=student)
    datamodule = data(clinc_file, tokenizer=student, teacher_tokenizer=teacher)
    fit(tmp_path, fitted, datamodule, max_steps=1)
    assert fitted.teacher_scores == same.teacher_scores
    assert fitted.teacher_scores["accuracy"] != 0
    batch = next(iter(datamodule.val_dataloader()))
    texts = datamodule.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    with torch.no_grad():
        expected = fitted.teacher.load()[0](**tokenizer(texts, return_tensors="pt", padding=True)).logits
    torch.testing.assert_close(fitted.teacher(batch).heads["label"].logits, expected)


def test_ensemble_with_different_tokenizers(tmp_path, clinc_file, teacher, student, byte_tokenizer):
    roberta = tiny_roberta(LABELS[::-1], byte_tokenizer, seed=5, **LARGE_INIT)
    names = [teacher, save_roberta(roberta, byte_tokenizer, tmp_path / "second")]
    fitted = module({"ensemble": names, "combine": "probabilities"}, student=student)
    datamodule = data(clinc_file, tokenizer=student, teacher_tokenizer=names)
    fit(tmp_path, fitted, datamodule, max_steps=1)
    batch = next(iter(datamodule.val_dataloader()))
    models = fitted.teacher.load()
    with torch.no_grad():
        first, second = (model(**inputs).logits for model, inputs in zip(models, batch["teacher_inputs"], strict=True))
    expected = (softmax(first.numpy(), axis=1) + softmax(second.numpy()[:, ::-1], axis=1)) / 2
    actual = fitted.teacher(batch).heads["label"].logits.softmax(dim=-1).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


# ---- checks


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (None, r"teacher '.*bert' and student '.*roberta'.*data\.teacher_tokenizer="),
        (["student"], r"teacher '.*bert' and data\.teacher_tokenizer '.*roberta'"),
        (["teacher", "teacher"], r"data\.teacher_tokenizer: 2 tokenizers for 1 models"),
    ],
)
def test_invalid_tokenizers(tmp_path, clinc_file, teacher, student, reader, message):
    tokenizers = reader and [{"student": student, "teacher": teacher}[name] for name in reader]
    datamodule = data(clinc_file, tokenizer=student, teacher_tokenizer=tokenizers)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, module(teacher, student=student), datamodule)


def test_losses_on_layers(tmp_path, clinc_file, teacher, student):
    datamodule = data(clinc_file, tokenizer=student, teacher_tokenizer=teacher)
    fitted = module(teacher, student=student, losses={"layers": HiddenStateMSELoss()})
    with pytest.raises(ValueError, match=r"losses\.layers: .*hidden_states.*data\.teacher_tokenizer"):
        fit(tmp_path, fitted, datamodule)


@pytest.mark.parametrize(("field", "model"), [("teacher_prompt", "teacher"), ("prompt", "the student")])
def test_prompt_longer_than_the_positions(tmp_path, clinc_file, field, model):
    short = save_model(tiny_bert(max_position_embeddings=32), tmp_path / "short")
    fitted = module(short) if field == "teacher_prompt" else module(student=short)
    with pytest.raises(ValueError, match=rf"data\.max_length: \d+ tokens \(with the prompt\) .* 32 .* {model}"):
        fit(tmp_path, fitted, data(clinc_file, **{field: "hello " * 30 + "{text}"}))


def test_question_and_context_longer_than_the_teachers_positions(tmp_path, span_models, squad_folder, tokenizer):
    teacher, student = span_models
    tokenizer.model_max_length = 14
    tokenizer.save_pretrained(teacher)
    datamodule = squad_data(squad_folder, tokenizer=student, teacher_tokenizer=teacher, max_length=48)
    with pytest.raises(ValueError, match=r"data\.max_length: .*'what is it\?'.* teacher"):
        fit(tmp_path, module(teacher, student=student, task=QuestionAnswering()), datamodule)


def test_report_leaves_out_the_teacher(tmp_path, clinc_file, teacher):
    with pytest.warns(UserWarning, match="the teacher has a different tokenizer"):
        fit(
            tmp_path,
            module(teacher),
            data(clinc_file, teacher_prompt="say {text}"),
            callbacks=[StudentExport(), CompressionReport()],
            max_steps=1,
        )


# ---- prompts


def test_prompt_of_the_training_is_saved_and_compared(tmp_path, clinc_file):
    trained = str(tmp_path / "trained")
    run = trainer(tmp_path, callbacks=[StudentExport(trained)], enable_checkpointing=True, max_steps=1)
    run.fit(module(), data(clinc_file, prompt="say {text}"))
    assert AutoConfig.from_pretrained(trained).text_prompt == "say {text}"
    student = DistillationModule.load_from_checkpoint(run.checkpoint_callback.best_model_path)
    validate = partial(trainer(tmp_path).validate, student, verbose=False)
    fit_once = partial(fit, tmp_path, max_steps=1)
    with pytest.warns(UserWarning, match=r"data\.prompt: the student .*'say {text}'"):
        validate(data(clinc_file))
    with pytest.warns(UserWarning, match=rf"data\.prompt: teacher '{trained}' .*'say {{text}}'"):
        fit_once(module(trained), data(clinc_file))
    with pytest.warns(UserWarning, match=rf"data\.teacher_prompt: teacher '{trained}' .*'tell {{text}}'"):
        fit_once(module(trained), data(clinc_file, teacher_prompt="tell {text}"))
    # no warnings, which would be errors
    validate(data(clinc_file, prompt="say {text}"))
    fit_once(module(trained, student=trained), data(clinc_file, teacher_prompt="say {text}"))


def test_prompt_is_internalized(tmp_path, clinc_file, teacher):
    """The student starts as a copy of the teacher; without the prompt its outputs differ, and less after training."""
    datamodule = data(clinc_file, teacher_prompt="now say what this is : {text} ?", batch_size=16)
    make = partial(module, teacher, student=teacher, losses={"soft": SoftTargetLoss()})

    @torch.no_grad()
    def divergence(fitted):
        fitted.eval()
        pairs = [[run(batch).heads["label"].logits for run in (fitted, fitted.teacher)] for batch in batches]
        return float(torch.stack([soft_target_loss(*pair) for pair in pairs]).mean())

    before, after = make(optimizer=partial(torch.optim.SGD, lr=0.0)), make()
    fit(tmp_path, before, datamodule, max_epochs=1)
    fit(tmp_path, after, datamodule, max_epochs=8)
    batches = list(datamodule.val_dataloader())
    assert divergence(before) > 0.005
    assert divergence(after) < divergence(before) / 5


# ---- masked tokens


@pytest.mark.parametrize("dynamic", [True, False])
def test_masked_lm_teacher_with_a_prompt(tmp_path, corpus, tokenizer, dynamic):
    """The teacher sees the same masked tokens within its prompt."""
    folder = save_model(tiny_bert(None, seed=2, model_class=BertForMaskedLM, **LARGE_INIT), tmp_path / "mlm")
    datamodule = mlm_data(corpus, teacher_prompt="hello {text} see you", dynamic_masking=dynamic)
    fitted = module(
        folder,
        task=MaskedLM(),
        student=dict(SMALL_BERT),
        losses={"soft": SoftTargetLoss()},
        teacher_cache=None if dynamic else str(tmp_path / "cache"),
    )
    fit(tmp_path, fitted, datamodule, max_epochs=2)
    batch = next(iter(datamodule.train_dataloader()))
    (inputs,) = batch["teacher_inputs"]
    assert all(text.startswith("[CLS] hello") for text in tokenizer.batch_decode(inputs["input_ids"]))
    masked = inputs["labels"] >= 0
    assert inputs["labels"][masked].equal(batch["labels"][batch["labels"] >= 0])
    with torch.no_grad():
        logits = fitted.teacher.load()[0](inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(fitted.teacher(batch).heads["token"].logits, logits[masked])


def test_teacher_prompt_does_not_change_the_students_masks(corpus):
    with_prompt, without = mlm_data(corpus, teacher_prompt="hello {text}"), mlm_data(corpus)
    for datamodule in (with_prompt, without):
        datamodule.setup("fit")
    first, second = (next(iter(datamodule.val_dataloader())) for datamodule in (with_prompt, without))
    assert all(first[name].equal(second[name]) for name in ("input_ids", "labels"))
    assert with_prompt.cache_key("validation") != without.cache_key("validation")
    assert with_prompt.max_teacher_tokens() == 17


# ---- spans


@pytest.fixture
def span_models(tmp_path, byte_tokenizer):
    """Folders of teacher and student."""
    teacher = tiny_bert(None, seed=3, model_class=BertForQuestionAnswering, **LARGE_INIT)
    student = tiny_roberta(None, byte_tokenizer, seed=4, model_class=RobertaForQuestionAnswering, **LARGE_INIT)
    return save_model(teacher, tmp_path / "qa-bert"), save_roberta(student, byte_tokenizer, tmp_path / "qa-roberta")


def span_probabilities_by_character(model, tokenizer, question, window):
    """Return the teacher's start and end probabilities by character of the window, None = no answer."""
    encoded = tokenizer(question, window, return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = model(**encoded)
    kinds = encoded.encodings[0].sequence_ids
    positions = [position for position, kind in enumerate(kinds) if position == 0 or kind == 1]
    probabilities = {}
    for name, side in (("start", 0), ("end", 1)):
        p = softmax(getattr(output, f"{name}_logits")[0].double().numpy()[positions])
        # the offset of an end is exclusive
        characters = [None if position == 0 else offsets[position][side] - side for position in positions]
        probabilities[name] = list(zip(characters, p, strict=True))
    return probabilities


@pytest.mark.parametrize(("length", "cuts_words"), [(60, False), (30, True)])
def test_span_probabilities_are_transferred_by_characters(
    tmp_path, span_models, squad_folder, tokenizer, length, cuts_words
):
    """Compare with the teacher called on the characters of each of the student's windows."""
    teacher, student = span_models
    fitted = module(teacher, student=student, task=QuestionAnswering())
    datamodule = squad_data(squad_folder, tokenizer=student, teacher_tokenizer=teacher, max_length=length)
    assert math.isfinite(fit(tmp_path, fitted, datamodule, max_epochs=1)["train/soft"])
    seen = set()
    for batch in datamodule.val_dataloader():
        outputs = fitted.teacher(batch)
        for index, context in enumerate(batch["context"]):
            offsets = batch["offsets"][index].tolist()
            first, stop = batch["context_span"][index].tolist()
            begin, end = offsets[first][0], offsets[stop - 1][1]
            begin += context[begin] == " "  # the first token of a window may include the space before it
            end -= context[end - 1] == " "  # the last token may be a space
            begin, end = context.rfind(" ", 0, begin) + 1, (context + " ").index(" ", end)  # whole words
            by_head = span_probabilities_by_character(
                fitted.teacher.load()[0], tokenizer, batch["question"][index], context[begin:end]
            )
            for name, by_character in by_head.items():
                expected = {}
                for character, p in by_character:
                    tokens = [0] if character is None else range(first, stop)
                    token = next(
                        (i for i in tokens if i == 0 or offsets[i][0] <= character + begin < offsets[i][1]), None
                    )
                    expected[token] = expected.get(token, 0) + p
                lost = expected.pop(None, 0)
                actual = outputs.heads[name].logits[index].exp()
                for token, p in expected.items():
                    assert float(actual[token]) == pytest.approx(p, rel=1e-3)
                seen.add((lost > 0, len(expected) < len(by_character)))
    assert any(merged for _, merged in seen)
    assert any(lost for lost, _ in seen) == cuts_words


def test_transfer_between_the_same_tokens(tmp_path, span_models, squad_folder):
    teacher, _ = span_models
    losses = {"soft": SoftTargetLoss(1.0, 3.0)}
    results = [
        fit(
            tmp_path,
            module(teacher, student=dict(SMALL_BERT), task=QuestionAnswering(), losses=losses),
            squad_data(squad_folder, max_length=32, teacher_tokenizer=name),  # no context or word is cut
            max_epochs=1,
        )
        for name in (None, teacher)
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-4)


# ---- cache


@pytest.mark.parametrize("kind", ["classes", "spans"])
def test_cached(tmp_path, clinc_file, squad_folder, teacher, student, span_models, kind):
    if kind == "classes":
        models, task = (teacher, student), SequenceClassification()
        make_data = partial(data, clinc_file)
    else:
        models, task = span_models, QuestionAnswering()
        make_data = partial(squad_data, squad_folder, max_length=48)
    without, cold, warm = (
        fit(
            tmp_path,
            module(models[0], student=models[1], task=task, teacher_cache=cache),
            make_data(tokenizer=models[1], teacher_tokenizer=models[0]),
            max_epochs=2,
        )
        for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache"))
    )
    assert cold == pytest.approx(without, rel=0 if kind == "classes" else 1e-5, abs=0)
    assert warm == cold
