"""What a probe looks at."""

import math
from dataclasses import dataclass

from datasets import Dataset
from torch import Tensor

from lightning_kd.evaluation.temperature import calibration
from lightning_kd.evaluation.temperature.logits import ModelLogits, get_texts
from lightning_kd.evaluation.temperature.result import ProbeResult, Sentence, SplitStats, TextProbabilities

CALLBACK_NAME = "TemperatureProbe"

MAX_SENTENCES = 20
"""Of more, the picture takes minutes to draw, and nobody looks at it."""


@dataclass(frozen=True)
class Selection:
    """Which sentences, which classes of them, at which temperatures.

    Attributes:
        sentences: Texts, at most 20; None = rows of the split.
        num_examples: How many of the teacher's most certain, and of its least certain rows are shown without
            sentences, from 1 to 10.
        temperatures: Each > 0.
        top_k: How many of the likeliest classes are shown, >= 1; all where there are fewer.
        bottom_k: How many of the least likely, >= 1.

    Raises:
        ValueError: If a number is out of range, or a sentence has no text.
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
                f"{CALLBACK_NAME}.sentences: the list is empty; name a sentence, or null for rows of the split"
            )
        if len(self.sentences or []) > MAX_SENTENCES:
            raise ValueError(
                f"{CALLBACK_NAME}.sentences: at most {MAX_SENTENCES}, got {len(self.sentences or [])}; probe the "
                f"others apart"
            )
        for number, sentence in enumerate(self.sentences or [], 1):
            if not isinstance(sentence, str) or not sentence.strip():
                raise ValueError(f"{CALLBACK_NAME}.sentences: number {number} has no text, got {sentence!r}; remove it")
        if not self.temperatures:
            raise ValueError(f"{CALLBACK_NAME}.temperatures: the list is empty; name some, for instance 1, 4, 19")
        for temperature in self.temperatures:
            if not (temperature > 0 and math.isfinite(temperature)):
                raise ValueError(
                    f"{CALLBACK_NAME}.temperatures: each must be > 0, got {temperature}; 1 leaves logits alone"
                )
        for name in ("num_examples", "top_k", "bottom_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{CALLBACK_NAME}.{name}: must be >= 1, got {getattr(self, name)}")
        if self.num_examples > MAX_SENTENCES // 2:
            raise ValueError(
                f"{CALLBACK_NAME}.num_examples: must be <= {MAX_SENTENCES // 2}, got {self.num_examples}: so many of "
                f"the most and of the least "
                "certain rows are shown; means are over the whole split anyway"
            )

    @staticmethod
    def check_num_classes(num_classes: int) -> None:
        """Refuse a single class.

        Raises:
            ValueError: Names the number of classes.
        """
        if num_classes < 2:
            raise ValueError(
                f"{CALLBACK_NAME}: there is {num_classes} class, and a temperature changes nothing about it; leave "
                f"it out"
            )

    def ranks(self, num_classes: int) -> list[int]:
        """The places shown, from 0, the likeliest class; each once."""
        top, bottom = range(min(self.top_k, num_classes)), range(max(num_classes - self.bottom_k, 0), num_classes)
        return sorted({*top, *bottom})

    def select_by_confidence(self, logits: Tensor) -> list[int]:
        """The rows with the highest, then those with the lowest probability of the likeliest class, at T = 1.

        Args:
            logits: Of the rows of a split, (N, C).
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
