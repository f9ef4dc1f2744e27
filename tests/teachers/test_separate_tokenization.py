"""Teachers that read the rows in an encoding of their own: a BERT teaches a RoBERTa, a prompt is internalised."""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import softmax
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    RobertaForQuestionAnswering,
)

from lightning_kd import MaskedLM, MaskedLMDataModule, QuestionAnswering, TeacherCache
from lightning_kd.callbacks import CompressionReport, StudentExport
from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, SoftTargetLoss
from lightning_kd.outputs import Head, Outputs
from tests.helpers import (
    LABELS,
    TINY_BERT,
    clinc_rows,
    data,
    module,
    roberta_tokenizer,
    save_model,
    save_roberta,
    squad_data,
    squad_questions,
    tiny_bert,
    tiny_roberta,
    trainer,
    write_squad,
)

LARGE_INIT = {"initializer_range": 0.6}


@pytest.fixture(scope="module")
def other():
    texts = [text for text, _ in clinc_rows()["train"]] + [row["context"] for row in squad_questions("t")]
    return roberta_tokenizer(texts, 290)  # few words whole


@pytest.fixture
def student(tmp_path, other):
    return save_roberta(tiny_roberta(LABELS, other), other, tmp_path / "roberta")


@pytest.fixture
def teacher(tmp_path):
    return save_model(tiny_bert(seed=1, **LARGE_INIT), tmp_path / "bert")


def fit(tmp_path, fitted, rows, **settings):
    run = trainer(tmp_path, **settings)
    run.fit(fitted, rows)
    return run


def read_metrics(run):
    return {name: float(value) for name, value in run.callback_metrics.items()}


def test_bert_teaches_a_roberta_as_well_as_it_scores_alone(tmp_path, clinc_file, teacher, student, tokenizer):
    own = module(teacher, student={"config": str(TINY_BERT), "num_hidden_layers": 1})
    fit(tmp_path, own, data(clinc_file), max_steps=1)
    fitted = module(teacher, student=student)
    rows = data(clinc_file, tokenizer=student, teacher_tokenizer=teacher)
    fit(tmp_path, fitted, rows, max_steps=1)
    assert fitted.teacher_scores == own.teacher_scores
    assert fitted.teacher_scores["accuracy"] != 0
    batch = next(iter(rows.val_dataloader()))
    texts = rows.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    with torch.no_grad():
        expected = fitted.teacher.load()[0](**tokenizer(texts, return_tensors="pt", padding=True)).logits
    torch.testing.assert_close(fitted.teacher(batch).heads["label"].logits, expected)


@pytest.mark.parametrize("kept", [{}, {"dtype": "float16"}])
def test_cache_with_a_separate_teacher_tokenizer(tmp_path, clinc_file, teacher, student, kept):
    def run(cache):
        fitted = module(teacher, student=student, teacher_cache=cache)
        rows = data(clinc_file, tokenizer=student, teacher_tokenizer=teacher)
        return read_metrics(fit(tmp_path, fitted, rows, max_epochs=2))

    cache = TeacherCache(str(tmp_path / "cache"), **kept)
    without, cold, warm = run(None), run(cache), run(cache)
    assert cold == warm
    assert cold == pytest.approx(without, abs=0 if not kept else 1e-2)


def test_ensemble_of_both_kinds(tmp_path, clinc_file, teacher, student, other):
    third = save_roberta(tiny_roberta(LABELS[::-1], other, seed=5, **LARGE_INIT), other, tmp_path / "third")
    names = [teacher, third]
    fitted = module({"ensemble": names, "combine": "probabilities"}, student=student)
    rows = data(clinc_file, tokenizer=student, teacher_tokenizer=names)
    fit(tmp_path, fitted, rows, max_steps=1)
    batch = next(iter(rows.val_dataloader()))
    with torch.no_grad():
        first = fitted.teacher.load()[0](**batch["teacher_inputs"][0]).logits.numpy()
        second = fitted.teacher.load()[1](**batch["teacher_inputs"][1]).logits.numpy()[:, ::-1]
    expected = (softmax(first, axis=1) + softmax(second, axis=1)) / 2
    got = fitted.teacher(batch).heads["label"].logits.softmax(dim=-1).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_other_tokenizer_is_refused_with_the_remedy(tmp_path, clinc_file, teacher, student):
    with pytest.raises(ValueError, match=r"different tokenizers.*data.teacher_tokenizer='"):
        fit(tmp_path, module(teacher, student=student), data(clinc_file, tokenizer=student))
    rows = data(clinc_file, tokenizer=student, teacher_tokenizer=student)
    with pytest.raises(ValueError, match=r"teacher '.*bert' and data.teacher_tokenizer .* have different tokenizers"):
        fit(tmp_path, module(teacher, student=student), rows)


def test_another_number_of_tokenizers_is_refused(tmp_path, clinc_file, teacher, student):
    rows = data(clinc_file, tokenizer=student, teacher_tokenizer=[teacher, teacher])
    with pytest.raises(ValueError, match=r"data\.teacher_tokenizer: 2 tokenizers for 1 models"):
        fit(tmp_path, module(teacher, student=student), rows)


def test_losses_on_layers_are_refused(tmp_path, clinc_file, teacher, student):
    rows = data(clinc_file, tokenizer=student, teacher_tokenizer=teacher)
    layers = module(teacher, student=student, losses={"layers": HiddenStateMSELoss()})
    with pytest.raises(ValueError, match=r"losses\.layers: compares hidden_states token by token.*losses on logits"):
        fit(tmp_path, layers, rows)


def test_prompt_longer_than_the_teachers_positions_is_refused(tmp_path, clinc_file):
    short = save_model(tiny_bert(max_position_embeddings=32), tmp_path / "short")
    rows = data(clinc_file, teacher_prompt="hello " * 30 + "{text}")
    with pytest.raises(
        ValueError, match=r"data\.max_length: 4\d tokens \(with the prompt\) .* 32 positions of teacher"
    ):
        fit(tmp_path, module(short), rows)


def test_prompt_longer_than_the_students_positions_is_refused(tmp_path, clinc_file):
    short = save_model(tiny_bert(max_position_embeddings=32), tmp_path / "short")
    with pytest.raises(
        ValueError, match=r"data\.max_length: 62 tokens \(with the prompt\) .* 32 positions of the student"
    ):
        fit(tmp_path, module(student=short), data(clinc_file, prompt="hello " * 30 + "{text}"))


def test_question_and_context_that_are_too_long_for_the_teacher(tmp_path, spans, tokenizer):
    teacher, student, folder = spans
    tokenizer.model_max_length = 14
    tokenizer.save_pretrained(teacher)
    fitted = module(teacher, student=student, task=QuestionAnswering())
    rows = squad_data(folder, tokenizer=student, teacher_tokenizer=teacher, max_length=48)
    with pytest.raises(
        ValueError, match=r"data\.max_length: question 'what is it\?' .* have \d+ tokens for the teacher"
    ):
        fit(tmp_path, fitted, rows)


def test_report_leaves_out_a_teacher_that_reads_something_else(tmp_path, clinc_file, teacher):
    callbacks = [StudentExport(), CompressionReport()]
    rows = data(clinc_file, teacher_prompt="say {text}")
    with pytest.warns(UserWarning, match="the teacher has a different tokenizer"):
        trainer(tmp_path, max_steps=1, callbacks=callbacks).fit(module(teacher), rows)


def test_network_that_was_trained_to_read_a_prompt_says_so(tmp_path, clinc_file, shell):
    settings = {"callbacks": [StudentExport(str(tmp_path / "reads"))], "enable_checkpointing": True, "max_steps": 1}
    run = trainer(tmp_path, **settings)
    run.fit(module(), data(clinc_file, prompt="say {text}"))
    again = type(run.lightning_module).load_from_checkpoint(run.checkpoint_callback.best_model_path)
    message = "was trained to read 'say {text}' and reads the text alone; set data.%s"
    with pytest.warns(UserWarning, match=re.escape(f"the student {message % 'prompt'}")):
        trainer(tmp_path).validate(again, data(clinc_file), verbose=False)
    trainer(tmp_path).validate(again, data(clinc_file, prompt="say {text}"), verbose=False)  # warnings are errors
    with pytest.warns(UserWarning, match=re.escape(f"reads' {message % 'prompt'}")):
        trainer(tmp_path, max_steps=1).fit(module(str(tmp_path / "reads")), data(clinc_file))
    rows = data(clinc_file, teacher_prompt="tell {text}")
    with pytest.warns(UserWarning, match=re.escape("reads 'tell {text}'; set data.teacher_prompt")):
        trainer(tmp_path, max_steps=1).fit(module(str(tmp_path / "reads")), rows)
    rows = data(clinc_file, teacher_prompt="say {text}")
    trainer(tmp_path, max_steps=1).fit(module(str(tmp_path / "reads"), student=str(tmp_path / "reads")), rows)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "reads")
    assert loaded.config.text_prompt == "say {text}"


def test_prompt_is_internalized(tmp_path, clinc_file, teacher, tokenizer):
    """The student, the teacher's copy, differs from it at first, because it does without the prompt, then less."""
    rows = data(clinc_file, teacher_prompt="now say what this is : {text} ?", batch_size=16)

    def distance(fitted):
        batches = list(rows.val_dataloader())
        fitted.eval()
        with torch.no_grad():
            pairs = [(fitted(b).heads["label"].logits, fitted.teacher(b).heads["label"].logits) for b in batches]
        return float(torch.cat([SoftTargetLoss().forward(*map(_outputs, pair)).reshape(1) for pair in pairs]).mean())

    soft = {"soft": SoftTargetLoss()}
    still = partial(torch.optim.SGD, lr=0.0)
    first = module(teacher, student=teacher, losses=soft, optimizer=still)
    fit(tmp_path, first, rows, max_epochs=1)
    last = module(teacher, student=teacher, losses=soft)
    fit(tmp_path, last, rows, max_epochs=8)
    assert distance(first) > 0.005
    assert distance(last) < distance(first) / 5


def _outputs(logits):
    return Outputs({"label": Head(logits)})


# ---- token by token


@pytest.fixture
def corpus(tmp_path):
    for split in ("train", "validation"):
        lines = [text for text, _ in clinc_rows()["train"][:24]]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def masked_data(folder, **settings):
    return MaskedLMDataModule(str(folder), str(TINY_BERT), line_by_line=True, batch_size=8, max_length=16, **settings)


@pytest.mark.parametrize("dynamic", [True, False])
def test_masked_lm_teacher_reads_a_prompt_around_the_same_masked_tokens(tmp_path, corpus, tokenizer, dynamic):
    folder = save_model(tiny_bert(None, seed=2, model_class=BertForMaskedLM, **LARGE_INIT), tmp_path / "mlm", tokenizer)
    student = {"config": str(TINY_BERT), "num_hidden_layers": 1}
    settings = {"task": MaskedLM(), "student": student, "losses": {"soft": SoftTargetLoss()}}
    rows = masked_data(corpus, teacher_prompt="hello {text} see you", dynamic_masking=dynamic)
    cache = {} if dynamic else {"teacher_cache": str(tmp_path / "cache")}
    fitted = module(folder, **settings, **cache)
    fit(tmp_path, fitted, rows, max_epochs=2)
    batch = next(iter(rows.train_dataloader()))
    (own,) = batch["teacher_inputs"]
    whole = tokenizer.batch_decode(own["input_ids"], skip_special_tokens=False)
    assert all(text.startswith("[CLS] hello") for text in whole)
    masked = batch["labels"] >= 0
    assert own["labels"][own["labels"] >= 0].equal(batch["labels"][masked])
    with torch.no_grad():
        logits = fitted.teacher.load()[0](own["input_ids"], attention_mask=own["attention_mask"]).logits
    torch.testing.assert_close(fitted.teacher(batch).heads["token"].logits, logits[own["labels"] >= 0])


def test_masks_of_the_student_are_those_of_a_run_without_a_prompt(corpus):
    with_, without = masked_data(corpus, teacher_prompt="hello {text}"), masked_data(corpus)
    for rows in (with_, without):
        rows.setup("fit")
    a, b = (next(iter(rows.val_dataloader())) for rows in (with_, without))
    assert all(a[name].equal(b[name]) for name in ("input_ids", "labels"))
    assert with_.cache_key("validation") != without.cache_key("validation")
    assert with_.max_teacher_tokens() == 17


# ---- spans


@pytest.fixture
def spans(tmp_path, other):
    teacher = tiny_bert(None, seed=3, model_class=BertForQuestionAnswering, **LARGE_INIT)
    student = tiny_roberta(None, other, seed=4, model_class=RobertaForQuestionAnswering, **LARGE_INIT)
    return (
        save_model(teacher, tmp_path / "qa-bert"),
        save_roberta(student, other, tmp_path / "qa-roberta"),
        write_squad(tmp_path / "squad"),
    )


def span_probabilities_by_character(network, tokenizer, question, window):
    """Where the teacher says a span begins and ends: characters of the window, None = nowhere, and probabilities."""
    own = tokenizer(question, window, return_offsets_mapping=True, return_tensors="pt")
    offsets = own.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = network(**own)
    kinds = own.encodings[0].sequence_ids
    counts = [place for place, kind in enumerate(kinds) if place == 0 or kind == 1]
    masses = {}
    for name, side in (("start", 0), ("end", 1)):
        p = softmax(getattr(output, f"{name}_logits")[0].double().numpy()[counts])
        # a span that ends before a character holds the one before it
        masses[name] = [(None if c == 0 else offsets[c][side] - side, x) for c, x in zip(counts, p, strict=True)]
    return masses


@pytest.mark.parametrize(("length", "cuts_words"), [(60, False), (30, True)])
def test_span_probabilities_are_transferred_by_characters(tmp_path, spans, tokenizer, length, cuts_words):
    """Row by row, with the teacher called by hand on the characters that the student reads."""
    teacher, student, folder = spans
    fitted = module(teacher, student=student, task=QuestionAnswering())
    rows = squad_data(folder, tokenizer=student, teacher_tokenizer=teacher, max_length=length)
    fit(tmp_path, fitted, rows, max_epochs=1)
    assert math.isfinite(fitted.trainer.callback_metrics["train/soft"])
    seen = set()
    for batch in rows.val_dataloader():
        outputs = fitted.teacher(batch)
        for number, context in enumerate(batch["context"]):
            offsets = batch["offsets"][number].tolist()
            first, after_last = batch["context_span"][number].tolist()
            begin, end = offsets[first][0], offsets[after_last - 1][1]
            begin += context[begin] == " "  # the first token of a part counts the space before it
            end -= context[end - 1] == " "  # a space alone may be the last
            begin, end = context.rfind(" ", 0, begin) + 1, (context + " ").index(" ", end)  # whole words
            masses = span_probabilities_by_character(
                fitted.teacher.load()[0], tokenizer, batch["question"][number], context[begin:end]
            )
            for name, of_tokens in masses.items():
                expected = {}
                for character, p in of_tokens:
                    holders = [i for i in range(first, after_last) if character is not None]
                    holders = [i for i in holders if offsets[i][0] <= character + begin < offsets[i][1]]
                    place = 0 if character is None else (holders or [None])[0]
                    expected[place] = expected.get(place, 0) + p
                lost = expected.pop(None, 0)
                got = outputs.heads[name].logits[number].exp()
                for place, p in expected.items():
                    assert float(got[place]) == pytest.approx(p, rel=1e-3)
                seen.add((lost > 0, len(expected) < len(of_tokens)))
    assert any(together for _, together in seen)
    assert any(lost for lost, _ in seen) == cuts_words


def test_same_tokenizer_maps_each_token_to_itself(tmp_path, spans):
    teacher, _, folder = spans
    student = {"config": str(TINY_BERT), "num_hidden_layers": 1}
    rows = partial(squad_data, folder, max_length=32)  # in which no context is cut, nor a word
    results = []
    for own in (None, teacher):
        fitted = module(teacher, student=student, task=QuestionAnswering(), losses={"soft": SoftTargetLoss(1.0, 3.0)})
        results.append(read_metrics(fit(tmp_path, fitted, rows(teacher_tokenizer=own), max_epochs=1)))
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_spans_are_kept_in_a_cache(tmp_path, spans):
    teacher, student, folder = spans
    results = []
    for cache in (None, str(tmp_path / "cache"), str(tmp_path / "cache")):
        losses = {"hard": HardLabelLoss(), "soft": SoftTargetLoss()}
        fitted = module(teacher, student=student, task=QuestionAnswering(), losses=losses, teacher_cache=cache)
        rows = squad_data(folder, tokenizer=student, teacher_tokenizer=teacher, max_length=48)
        results.append(read_metrics(fit(tmp_path, fitted, rows, max_epochs=2)))
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[1] == results[2]
