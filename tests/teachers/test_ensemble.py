"""Several teachers as one: against plain NumPy and SciPy, row by row."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy

from lightning_kd import SequenceClassification
from lightning_kd.teachers.ensemble import combine_logits
from lightning_kd.teachers.teacher import Teacher
from tests.helpers import LABELS, data, module, save_model, tiny_bert, trainer

LOGITS = [torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) * (1 + 3 * seed) for seed in range(3)]
MASK = torch.tensor([[True] * 5, [True, False, True, True, False], [False, True, True, False, False]] * 2)


def reference(row, mask, combine):
    """Probabilities of the classes of a row that count; ``row``: (K, C)."""
    p = softmax(row[:, mask], axis=1)
    if combine == "logits":
        return softmax(row[:, mask].mean(axis=0))
    if combine == "probabilities":
        return p.mean(axis=0)
    uncertain = np.exp([entropy(own) for own in p])
    weights = (1 - uncertain / uncertain.sum()) / (len(p) - 1)
    assert abs(weights.sum() - 1) < 1e-12
    return weights @ p


@pytest.mark.parametrize("combine", ["logits", "probabilities", "confidence"])
@pytest.mark.parametrize("mask", [None, MASK])
def test_against_numpy(combine, mask):
    mean = combine_logits(LOGITS, mask, combine)
    assert mean.isfinite().all()
    stacked = torch.stack(LOGITS).double().numpy()
    for number, logits in enumerate(mean.double().numpy()):
        counts = np.ones(5, dtype=bool) if mask is None else mask[number].numpy()
        expected = reference(stacked[:, number], counts, combine)
        np.testing.assert_allclose(softmax(logits[counts]), expected, rtol=2e-5)


def test_probabilities_come_as_logarithms_that_sum_to_one():
    mean = combine_logits(LOGITS, None, "probabilities").double().numpy()
    np.testing.assert_allclose(logsumexp(mean, axis=1), 0, atol=1e-6)
    parts = np.stack([log_softmax(own.double().numpy(), axis=1) for own in LOGITS])
    np.testing.assert_allclose(mean, logsumexp(parts, axis=0) - np.log(3), rtol=1e-5, atol=1e-6)


def test_confident_teachers_weigh_more():
    sure, unsure = torch.tensor([[40.0, 0.0, 0.0, 0.0]]), torch.zeros(1, 4)
    p = combine_logits([sure, unsure], None, "confidence").softmax(dim=-1)
    # entropies 0 and log 4: exp gives 1 and 4, so the weights are 4/5 and 1/5
    torch.testing.assert_close(p, torch.tensor([[0.85, 0.05, 0.05, 0.05]]))
    torch.testing.assert_close(
        combine_logits([sure, sure], None, "confidence").softmax(dim=-1), sure.softmax(dim=-1), atol=1e-7, rtol=0
    )


def test_extreme_logits_and_rows_of_which_no_class_counts_stay_finite():
    logits = [torch.tensor([[1e4, -1e4, 0.0], [1.0, 2.0, 3.0]]), torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]])]
    mask = torch.tensor([[True, True, True], [False, False, False]])
    for combine in ("probabilities", "confidence"):
        mean = combine_logits(logits, mask, combine)
        assert mean.isfinite().all()
        torch.testing.assert_close(mean[0].softmax(dim=-1), torch.tensor([0.5, 0.5, 0.0]))


@pytest.mark.parametrize("combine", ["probabilities", "confidence"])
def test_teacher_combines_in_the_students_order(combine):
    other = ["oos", "greet", "leave"]
    networks = [
        tiny_bert(labels=LABELS, seed=1, initializer_range=1.0),
        tiny_bert(other, seed=2, initializer_range=1.0),
    ]
    ids = torch.tensor([[2, 40, 41, 3], [2, 42, 43, 3]])
    with torch.no_grad():
        network_logits = [network.eval()(ids).logits for network in networks]
    teacher = Teacher({"ensemble": networks, "combine": combine}, SequenceClassification())
    teacher.align_classes(LABELS, ignore_mismatch=False)
    rows = np.stack([network_logits[0].double().numpy(), network_logits[1][:, [1, 2, 0]].double().numpy()], axis=1)
    p = teacher({"input_ids": ids}).heads["label"].logits.softmax(dim=-1).numpy()
    for row, actual in zip(rows, p, strict=True):
        np.testing.assert_allclose(actual, reference(row, np.ones(3, dtype=bool), combine), rtol=1e-5)


def test_run_saves_how_they_are_combined(tmp_path, clinc_file):
    folders = [save_model(tiny_bert(seed=seed, initializer_range=1.0), tmp_path / str(seed)) for seed in range(2)]
    source = {"ensemble": folders, "combine": "confidence"}
    fitted = module(source, teacher_cache=str(tmp_path / "cache"))
    run = trainer(tmp_path, enable_checkpointing=True, max_steps=2)
    run.fit(fitted, data(clinc_file))
    loaded = type(fitted).load_from_checkpoint(run.checkpoint_callback.best_model_path)
    assert loaded.teacher.source_config == source
    averaged = module(folders, teacher_cache=str(tmp_path / "cache"))
    trainer(tmp_path, max_steps=1).fit(averaged, data(clinc_file))
    assert len([folder for folder in (tmp_path / "cache").iterdir() if folder.is_dir()]) == 4  # nothing is shared


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"ensemble": ["x"], "combine": "votes"}, "teacher.combine: must be one of logits, probabilities.*got 'votes'"),
        ({"ensemble": ["x"], "mean": "logits"}, "teacher.mean: "),
        ({"ensemble": "x"}, "teacher.ensemble: must be a list of models, got str"),
        ({"ensemble": []}, "teacher: the list is empty"),
    ],
)
def test_invalid_ensemble(source, message):
    with pytest.raises(ValueError, match=message):
        Teacher(source, SequenceClassification())
