"""Selection of sentences, classes and temperatures, and the probe's result for them."""

import math
from dataclasses import dataclass

from datasets import Dataset
from torch import Tensor

from lightning_kd.evaluation.temperature import calibration
from lightning_kd.evaluation.temperature.logits import ModelLogits, get_texts
from lightning_kd.evaluation.temperature.result import ProbeResult, Sentence, SplitStats, TextProbabilities

CALLBACK_NAME = "TemperatureProbe"

MAX_SENTENCES = 20
"""Maximum number of sentences; plotting more takes minutes."""


@dataclass(frozen=True)
class Selection:
    """The sentences, classes and temperatures to show.

    Attributes:
        sentences: Texts, at most 20; None selects examples of the split.
        num_examples: Number of most confident and of least confident examples to show without ``sentences``, 1-10.
        temperatures: Temperatures, each > 0.
        top_k: Number of most likely classes to show, >= 1.
        bottom_k: Number of least likely classes to show, >= 1.

    Raises:
        ValueError: If a value is out of range, or a sentence is empty.
    """

    sentences: list[str] | None
    num_examples: int
    temperatures: list[float]
    top_k: int
    bottom_k: int

    def __post_init__(self) -> None:
        if isinstance(self.sentences, str):
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: must be a list, got the text {self.sentences!r}; put it in brackets"
            )
        if self.sentences is not None and not self.sentences:
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: is empty; add a sentence, or set null for examples of the split"
            )
        if len(self.sentences or []) > MAX_SENTENCES:
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: at most {MAX_SENTENCES}, got {len(self.sentences or [])}; probe the "
                f"others separately"
            )
        for number, sentence in enumerate(self.sentences or [], 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"{CALLBACK_NAME}.sentences: number {number} is empty, got {sentence!r}; remove it")
        if not self.temperatures:
            raise ValueError(f"{CALLBACK_NAME}.temperatures: is empty; add some, for instance 1, 4, 19")
        for temperature in self.temperatures:
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(
                    f"{CALLBACK_NAME}.temperatures: must be > 0, got {temperature}; 1 does not change the logits"
                )
        for name in ("num_examples", "top_k", "bottom_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{CALLBACK_NAME}.{name}: must be >= 1, got {getattr(self, name)}")
        if self.num_examples > MAX_SENTENCES // 2:
            raise ValueError(
                f"{CALLBACK_NAME}.num_examples: must be <= {MAX_SENTENCES // 2}, got {self.num_examples}; averages "
                "are over the whole split in any case"
            )

    @staticmethod
    def check_num_classes(num_classes: int) -> None:
        """Raise if there are fewer than two classes.

        Raises:
            ValueError: If there are; the message contains their number.
        """
        if num_classes < 2:
            raise ValueError(f"{CALLBACK_NAME}: requires at least 2 classes, got {num_classes}; remove it")

    def ranks(self, num_classes: int) -> list[int]:
        """Return the ranks to show, each once; 0 is the most likely class."""
        top, bottom = range(min(self.top_k, num_classes)), range(max(num_classes - self.bottom_k, 0), num_classes)
        return sorted({*top, *bottom})

    def select_by_confidence(self, logits: Tensor) -> list[int]:
        """Return the indices of the most confident, then of the least confident examples, at T = 1.

        Args:
            logits: Logits of a split, (N, C).
        """
        order = (
            calibration.log_probabilities(logits, 1.0).max(dim=-1).values.argsort(descending=True, stable=True).tolist()
        )
        most_confident = order[: self.num_examples]
        return most_confident + [row for row in order[-self.num_examples :] if row not in most_confident]


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
        sources: Folder or hub id of each model.
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
