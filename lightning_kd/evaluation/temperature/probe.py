"""The probe's calculation: a ``ProbeResult`` from the logits of a split and of sentences."""

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
    """Compute the result of a probe from logits.

    Args:
        selection: The sentences, classes and temperatures to show.
        sources: Folder or Hub id of each model.
        label_names: Class names in the order of the logits.
        split: Name of the split.
        raw: The split before tokenization.
        labels: Labels of the split, (N,), < 0 if unknown.
        model_logits: Logits of the teacher and, optionally, of the student.
    """
    if selection.sentences is None:
        indices = selection.select_by_confidence(model_logits[0].split_logits)
        texts, shown_labels = get_texts(raw, indices), labels[indices].tolist()
        shown_logits = [model.split_logits[indices] for model in model_logits]
    else:
        texts, shown_labels = selection.sentences, [-1] * len(selection.sentences)
        shown_logits = [model.sentence_logits for model in model_logits if model.sentence_logits is not None]
    ranks = selection.ranks(len(label_names))
    names = [model.name for model in model_logits]
    sentences = []
    for text, label, *logits_per_model in zip(texts, shown_labels, *shown_logits, strict=True):
        classes = logits_per_model[0].argsort(descending=True, stable=True)[ranks]
        sentences.append(
            Sentence(
                text=text,
                label=label_names[label] if label >= 0 else None,
                ranks=[rank + 1 for rank in ranks],
                classes=[label_names[index] for index in classes.tolist()],
                model_probabilities=[
                    _text_probabilities(name, logits, classes, selection, label_names)
                    for name, logits in zip(names, logits_per_model, strict=True)
                ],
            )
        )
    predictions = [model.split_logits.argmax(dim=-1) for model in model_logits]
    labeled = labels >= 0
    accuracy, best_temperature = {}, {}
    for model, prediction in zip(model_logits if labeled.any() else [], predictions, strict=False):
        accuracy[model.name] = float((prediction == labels)[labeled].double().mean())
        best_temperature[model.name] = calibration.best_temperature(model.split_logits[labeled], labels[labeled])
    return ProbeResult(
        sources=dict(zip(names, sources, strict=True)),
        temperatures=selection.temperatures,
        sentences=sentences,
        split_stats=[
            _split_stats(model_logits[0], model, temperature, labels)
            for model in model_logits
            for temperature in selection.temperatures
        ],
        split=split,
        num_examples=len(labels),
        num_classes=len(label_names),
        accuracy=accuracy,
        agreement=float((predictions[0] == predictions[1]).double().mean()) if len(predictions) == 2 else None,
        best_temperature=best_temperature,
    )


def _text_probabilities(
    name: str, logits: Tensor, classes: Tensor, selection: Selection, label_names: list[str]
) -> TextProbabilities:
    order = logits.argsort(descending=True, stable=True).tolist()
    log_ps = [calibration.log_probabilities(logits[None], temperature) for temperature in selection.temperatures]
    ranked = [log_p.exp().sort(descending=True).values[0] for log_p in log_ps]
    return TextProbabilities(
        model=name,
        probabilities=[log_p.exp()[0, classes].tolist() for log_p in log_ps],
        second_class=label_names[order[1]],
        last_class=label_names[order[-1]],
        second_probabilities=[float(p[1]) for p in ranked],
        last_probabilities=[float(p[-1]) for p in ranked],
        relative_difference=[float(calibration.relative_difference(log_p)) for log_p in log_ps],
    )


def _split_stats(teacher: ModelLogits, model: ModelLogits, temperature: float, labels: Tensor) -> SplitStats:
    log_p = calibration.log_probabilities(model.split_logits, temperature)
    labeled = labels >= 0
    kl = None
    if model is not teacher:
        kl = calibration.kl_divergence(calibration.log_probabilities(teacher.split_logits, temperature), log_p)
    return SplitStats(
        model=model.name,
        temperature=temperature,
        entropy=calibration.entropy(log_p),
        off_target_mass=calibration.off_target_mass(log_p[labeled], labels[labeled]) if labeled.any() else None,
        calibration_error=calibration.calibration_error(log_p[labeled], labels[labeled]) if labeled.any() else None,
        kl_divergence=kl,
    )
