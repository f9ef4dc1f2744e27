"""Puts together what networks say about sentences and a split."""

from datasets import Dataset
from torch import Tensor

from lightning_kd.evaluation.temperature import calibration
from lightning_kd.evaluation.temperature.logits import Answers, texts_of
from lightning_kd.evaluation.temperature.result import Level, Probe, Sentence, View
from lightning_kd.evaluation.temperature.selection import Selection


def compare(
    selection: Selection,
    sources: list[str],
    label_names: list[str],
    split: str,
    raw: Dataset,
    labels: Tensor,
    answers: list[Answers],
) -> Probe:
    """Put together what the networks say.

    Args:
        selection: What to show.
        sources: What each network is.
        label_names: Names of the classes, in the order of the logits.
        split: Name of the split.
        raw: Its rows before they were tokenised.
        labels: Of its rows, (N,), < 0 where unknown.
        answers: The teacher's, then maybe the student's.
    """
    rows = selection.certain_rows(answers[0].split) if selection.sentences is None else None
    texts = selection.sentences or texts_of(raw, rows or [])
    known = labels >= 0
    ranks = selection.ranks(len(label_names))
    shown = []
    for place, text in enumerate(texts):
        own = [a.split[rows[place]] if rows is not None else a.sentences[place] for a in answers]  # type: ignore[index]
        classes = own[0].argsort(descending=True, stable=True)[ranks]
        label = int(labels[rows[place]]) if rows is not None else -1
        shown.append(
            Sentence(
                text,
                label_names[label] if label >= 0 else None,
                [rank + 1 for rank in ranks],
                [label_names[i] for i in classes.tolist()],
                [
                    _view(a.name, logits, classes, selection, label_names)
                    for a, logits in zip(answers, own, strict=True)
                ],
            )
        )
    decisions = [answer.split.argmax(dim=-1) for answer in answers]
    scored = [(a, d) for a, d in zip(answers, decisions, strict=True) if known.any()]
    return Probe(
        {answer.name: source for answer, source in zip(answers, sources, strict=True)},
        selection.temperatures,
        shown,
        [_level(answers[0], answer, t, labels) for answer in answers for t in selection.temperatures],
        split,
        len(labels),
        len(label_names),
        {a.name: float((d == labels)[known].double().mean()) for a, d in scored},
        float((decisions[0] == decisions[1]).double().mean()) if len(answers) == 2 else None,
        {a.name: calibration.best_temperature(a.split[known], labels[known]) for a, _ in scored},
    )


def _view(name: str, logits: Tensor, classes: Tensor, selection: Selection, label_names: list[str]) -> View:
    order = logits.argsort(descending=True, stable=True).tolist()
    at = [calibration.log_probabilities(logits[None], t) for t in selection.temperatures]
    ranked = [log_p.exp().sort(descending=True).values[0] for log_p in at]
    return View(
        name,
        [log_p.exp()[0, classes].tolist() for log_p in at],
        label_names[order[1]],
        label_names[order[-1]],
        [float(p[1]) for p in ranked],
        [float(p[-1]) for p in ranked],
        [float(calibration.relative_difference(log_p)) for log_p in at],
    )


def _level(teacher: Answers, answer: Answers, temperature: float, labels: Tensor) -> Level:
    log_p = calibration.log_probabilities(answer.split, temperature)
    known = labels >= 0
    kl = None
    if answer is not teacher:
        kl = calibration.divergence(calibration.log_probabilities(teacher.split, temperature), log_p)
    return Level(
        answer.name,
        temperature,
        calibration.entropy(log_p),
        calibration.wrong_mass(log_p[known], labels[known]) if known.any() else None,
        calibration.calibration_error(log_p[known], labels[known]) if known.any() else None,
        kl,
    )
