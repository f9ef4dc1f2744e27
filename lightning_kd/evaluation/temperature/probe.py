"""The probe's calculation: a ``ProbeResult`` from the logits of a split and of sentences."""

import torch
from datasets import Dataset
from torch import Tensor

from lightning_kd.evaluation.temperature import calibration
from lightning_kd.evaluation.temperature.logits import ModelLogits, get_texts
from lightning_kd.evaluation.temperature.result import ProbeResult, Sentence, SplitStats, TextProbabilities
from lightning_kd.evaluation.temperature.selection import Selection
from lightning_kd.outputs import IGNORE_INDEX


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
    names = [model.name for model in model_logits]
    if selection.sentences is None:
        indices = selection.select_by_confidence(model_logits[0].split_logits)
        texts, text_labels = get_texts(raw, indices), labels[indices].tolist()
        text_logits = [model.split_logits[indices] for model in model_logits]
    else:
        texts, text_labels = selection.sentences, [IGNORE_INDEX] * len(selection.sentences)
        text_logits = [model.sentence_logits for model in model_logits if model.sentence_logits is not None]
    labeled = labels >= 0
    accuracy, best_temperature = {}, {}
    if labeled.any():
        for model in model_logits:
            logits, targets = model.split_logits[labeled], labels[labeled]
            accuracy[model.name] = float((logits.argmax(dim=-1) == targets).double().mean())
            best_temperature[model.name] = calibration.best_temperature(logits, targets)
    predictions = [model.split_logits.argmax(dim=-1) for model in model_logits]
    return ProbeResult(
        sources=dict(zip(names, sources, strict=True)),
        temperatures=selection.temperatures,
        sentences=[
            _describe_sentence(text, label, dict(zip(names, logits, strict=True)), selection, label_names)
            for text, label, *logits in zip(texts, text_labels, *text_logits, strict=True)
        ],
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


def _describe_sentence(
    text: str, label: int, model_logits: dict[str, Tensor], selection: Selection, label_names: list[str]
) -> Sentence:
    """Return a sentence with its probabilities; the first model, the teacher, determines the shown classes."""
    teacher_logits = next(iter(model_logits.values()))
    ranks = selection.ranks(len(label_names))
    classes = teacher_logits.argsort(descending=True, stable=True)[ranks].tolist()
    return Sentence(
        text=text,
        label=label_names[label] if label >= 0 else None,
        ranks=[rank + 1 for rank in ranks],
        classes=[label_names[index] for index in classes],
        model_probabilities=[
            _text_probabilities(name, logits, classes, selection.temperatures, label_names)
            for name, logits in model_logits.items()
        ],
    )


def _text_probabilities(
    name: str, logits: Tensor, classes: list[int], temperatures: list[float], label_names: list[str]
) -> TextProbabilities:
    log_p = torch.cat([calibration.log_probabilities(logits[None], temperature) for temperature in temperatures])
    p = log_p.exp()  # (temperatures, C)
    ranked_p = p.sort(dim=-1, descending=True).values
    order = logits.argsort(descending=True, stable=True).tolist()
    return TextProbabilities(
        model=name,
        probabilities=p[:, classes].tolist(),
        second_class=label_names[order[1]],
        last_class=label_names[order[-1]],
        second_probabilities=ranked_p[:, 1].tolist(),
        last_probabilities=ranked_p[:, -1].tolist(),
        relative_difference=calibration.relative_difference(log_p).tolist(),
    )


def _split_stats(teacher: ModelLogits, model: ModelLogits, temperature: float, labels: Tensor) -> SplitStats:
    log_p = calibration.log_probabilities(model.split_logits, temperature)
    off_target_mass = calibration_error = kl_divergence = None
    if (labeled := labels >= 0).any():
        off_target_mass = calibration.off_target_mass(log_p[labeled], labels[labeled])
        calibration_error = calibration.calibration_error(log_p[labeled], labels[labeled])
    if model is not teacher:
        teacher_log_p = calibration.log_probabilities(teacher.split_logits, temperature)
        kl_divergence = calibration.kl_divergence(teacher_log_p, log_p)
    return SplitStats(
        model=model.name,
        temperature=temperature,
        entropy=calibration.entropy(log_p),
        off_target_mass=off_target_mass,
        calibration_error=calibration_error,
        kl_divergence=kl_divergence,
    )
