"""Puts together what networks say about sentences and a split."""

from datasets import Dataset
from torch import Tensor

from lightning_kd.evaluation.temperature import calibration
from lightning_kd.evaluation.temperature.logits import ModelLogits, get_texts
from lightning_kd.evaluation.temperature.result import ProbeResult, Sentence, SplitStats, TextProbabilities
from lightning_kd.evaluation.temperature.selection import Selection


def build_probe_result(
    selection: Selection,
    sources: list[str],
    label_names: list[str],
    split: str,
    raw: Dataset,
    labels: Tensor,
    model_logits: list[ModelLogits],
) -> ProbeResult:
    """Put together what the networks say.

    Args:
        selection: What to show.
        sources: What each network is.
        label_names: Names of the classes, in the order of the logits.
        split: Name of the split.
        raw: Its rows before they were tokenised.
        labels: Of its rows, (N,), < 0 where unknown.
        model_logits: The teacher's, then maybe the student's.
    """
    indices = selection.select_by_confidence(model_logits[0].split_logits) if selection.sentences is None else None
    texts = selection.sentences or get_texts(raw, indices or [])
    labeled = labels >= 0
    ranks = selection.ranks(len(label_names))
    sentences = []
    for position, text in enumerate(texts):
        logits_per_model = [
            model.split_logits[indices[position]] if indices is not None else model.sentence_logits[position]
            for model in model_logits
        ]  # type: ignore[index]
        classes = logits_per_model[0].argsort(descending=True, stable=True)[ranks]
        label = int(labels[indices[position]]) if indices is not None else -1
        sentences.append(
            Sentence(
                text,
                label_names[label] if label >= 0 else None,
                [rank + 1 for rank in ranks],
                [label_names[i] for i in classes.tolist()],
                [
                    _text_probabilities(model.name, logits, classes, selection, label_names)
                    for model, logits in zip(model_logits, logits_per_model, strict=True)
                ],
            )
        )
    predictions = [model.split_logits.argmax(dim=-1) for model in model_logits]
    scored_models = [(model, d) for model, d in zip(model_logits, predictions, strict=True) if labeled.any()]
    return ProbeResult(
        {model.name: source for model, source in zip(model_logits, sources, strict=True)},
        selection.temperatures,
        sentences,
        [_split_stats(model_logits[0], model, t, labels) for model in model_logits for t in selection.temperatures],
        split,
        len(labels),
        len(label_names),
        {model.name: float((d == labels)[labeled].double().mean()) for model, d in scored_models},
        float((predictions[0] == predictions[1]).double().mean()) if len(model_logits) == 2 else None,
        {
            model.name: calibration.best_temperature(model.split_logits[labeled], labels[labeled])
            for model, _ in scored_models
        },
    )


def _text_probabilities(
    name: str, logits: Tensor, classes: Tensor, selection: Selection, label_names: list[str]
) -> TextProbabilities:
    order = logits.argsort(descending=True, stable=True).tolist()
    log_ps = [calibration.log_probabilities(logits[None], t) for t in selection.temperatures]
    ranked = [log_p.exp().sort(descending=True).values[0] for log_p in log_ps]
    return TextProbabilities(
        name,
        [log_p.exp()[0, classes].tolist() for log_p in log_ps],
        label_names[order[1]],
        label_names[order[-1]],
        [float(p[1]) for p in ranked],
        [float(p[-1]) for p in ranked],
        [float(calibration.relative_difference(log_p)) for log_p in log_ps],
    )


def _split_stats(teacher: ModelLogits, model: ModelLogits, temperature: float, labels: Tensor) -> SplitStats:
    log_p = calibration.log_probabilities(model.split_logits, temperature)
    labeled = labels >= 0
    kl = None
    if model is not teacher:
        kl = calibration.kl_divergence(calibration.log_probabilities(teacher.split_logits, temperature), log_p)
    return SplitStats(
        model.name,
        temperature,
        calibration.entropy(log_p),
        calibration.off_target_mass(log_p[labeled], labels[labeled]) if labeled.any() else None,
        calibration.calibration_error(log_p[labeled], labels[labeled]) if labeled.any() else None,
        kl,
    )
