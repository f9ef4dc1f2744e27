"""Augmentation: TF-IDF against scikit-learn's, frequencies of replacements, and reproducible batches."""

import re
from collections import Counter
from operator import itemgetter

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from lightning_kd import TextClassificationDataModule
from lightning_kd.data import Augmentation, TfIdfReplacement
from tests.helpers import TINY_BERT, clinc_rows

TEXTS = [text for text, _ in clinc_rows()["train"] + clinc_rows()["oos_train"]] + ["the water, the WATER!"]


@pytest.fixture
def replacement():
    augmentation = TfIdfReplacement(0.4)
    augmentation.fit(TEXTS)
    return augmentation


def tfidf_scores(text):
    """Return scikit-learn's TF-IDF of each word: relative counts times the logarithm of n / df."""
    vectorizer = TfidfVectorizer(smooth_idf=False, norm=None, token_pattern=r"\w+").fit(TEXTS)
    words = vectorizer.build_analyzer()(text)
    idf = {word: vectorizer.idf_[index] - 1 for word, index in vectorizer.vocabulary_.items()}
    return np.array([words.count(word) / len(words) * idf[word] for word in words])


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[-1], "what is the hello of france"])
def test_probabilities_of_the_paper(replacement, text):
    original = tfidf_scores(text)
    margins = original.max() - original
    expected = np.minimum(0.4 * margins / (margins.sum() / len(original)), 1)
    np.testing.assert_allclose(replacement.replacement_probabilities(text), expected, rtol=1e-9)
    assert expected.min() == 0  # the most informative word stays


def test_frequencies_of_replacements(replacement):
    text, generator = TEXTS[0], np.random.default_rng(0)
    words, drawn, changed = text.split(), Counter(), np.zeros(len(text.split()))
    for _ in range(4000):
        for index, (old, new) in enumerate(zip(words, replacement(text, generator).split(), strict=True)):
            changed[index] += old != new
            if old != new:
                drawn[new] += 1
    vectorizer = TfidfVectorizer(smooth_idf=False, norm=None, token_pattern=r"\w+")
    totals = np.asarray(vectorizer.fit_transform(TEXTS).sum(axis=0))[0]
    names = vectorizer.get_feature_names_out()
    occurrences = totals / vectorizer.idf_
    weights = (occurrences * (vectorizer.idf_ - 1)).max() - occurrences * (vectorizer.idf_ - 1)
    share = dict(zip(names, weights / weights.sum(), strict=True))
    # a word may be replaced by itself
    p = replacement.replacement_probabilities(text) * [1 - share[word] for word in words]
    np.testing.assert_allclose(changed / 4000, p, atol=0.03)
    for word in ("goodbye", "hello", "france"):
        others = sum(q for w, q in zip(words, replacement.replacement_probabilities(text), strict=True) if w != word)
        assert drawn[word] / 4000 == pytest.approx(share[word] * others, abs=0.02)


def test_combining_marks():
    augmentation = TfIdfReplacement(1.0)
    augmentation.fit(["टिकट चाहिए", "पानी चाहिए", "काम चाहिए"])
    assert augmentation._vocabulary == sorted(["टिकट", "चाहिए", "पानी", "काम"])


def test_punctuation_stays(replacement):
    replacement.probability = 1.0
    text = replacement("hello, (good) morning!", np.random.default_rng(0))
    assert re.sub(r"\w+", "_", text) == "_, (_) _!"


@pytest.mark.parametrize("text", ["", "...", "hello", "unknownword otherword"])
def test_texts_without_informative_words(replacement, text):
    assert isinstance(replacement(text, np.random.default_rng(0)), str)
    alone = TfIdfReplacement()
    alone.fit([text])
    assert isinstance(alone(text, np.random.default_rng(0)), str)


@pytest.mark.parametrize("probability", [0.0, -0.1, 1.1, float("nan")])
def test_probability_out_of_range(probability):
    with pytest.raises(ValueError, match=r"TfIdfReplacement.probability: must be in \(0, 1\], got"):
        TfIdfReplacement(probability)


class AppendHello(Augmentation):
    def fit(self, texts):
        self.num_texts = len(texts)

    def __call__(self, text, generator):
        return f"{text} hello"


@pytest.fixture
def data_folder(write):
    lines = "\n".join(f"{text},{label}" for text, label in clinc_rows()["train"])
    return write({"train.csv": f"text,label\n{lines}\n", "validation.csv": f"text,label\n{lines}\n"})


def make_datamodule(folder, augmentation, **settings):
    settings = {"batch_size": 6, **settings}
    datamodule = TextClassificationDataModule(str(folder), str(TINY_BERT), augmentation=augmentation, **settings)
    datamodule.setup("fit")
    return datamodule


def decode(datamodule, batch):
    return datamodule.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)


def test_augmentation_keeps_number_of_words(data_folder):
    datamodule = make_datamodule(data_folder, TfIdfReplacement(0.5))
    batch = next(iter(datamodule.train_dataloader()))
    original, augmented = decode(datamodule, batch), decode(datamodule, batch["augmented"])
    assert [len(text.split()) for text in original] == [len(text.split()) for text in augmented]
    assert original != augmented
    assert "augmented" not in next(iter(datamodule.val_dataloader()))
    assert "text_to_augment" not in batch


def texts_by_row(datamodule, loader, epoch, inputs=lambda batch: batch):
    loader.sampler.set_state(epoch, 0)
    pairs = [zip(batch["row_id"].tolist(), decode(datamodule, inputs(batch)), strict=True) for batch in loader]
    return {row_id: text for batch in pairs for row_id, text in batch}


def test_augmented_texts_change_with_the_epoch_only(data_folder):
    seen = []
    for settings in ({"num_workers": 0}, {"num_workers": 1, "batch_size": 4}):
        datamodule = make_datamodule(data_folder, TfIdfReplacement(0.5), **settings)
        loader = datamodule.train_dataloader()
        originals = [texts_by_row(datamodule, loader, epoch) for epoch in range(2)]
        augmented = [texts_by_row(datamodule, loader, epoch, itemgetter("augmented")) for epoch in range(2)]
        assert originals[0] == originals[1]
        assert augmented[0].keys() == augmented[1].keys()
        assert augmented[0] != augmented[1]
        seen.append(augmented)
    assert seen[0] == seen[1]


def test_augmented_texts_keep_the_prompt(data_folder):
    datamodule = make_datamodule(data_folder, TfIdfReplacement(0.9), prompt="hello you : {text}")
    augmented = decode(datamodule, next(iter(datamodule.train_dataloader()))["augmented"])
    assert all(text.startswith("hello you") for text in augmented)


def test_custom_augmentation(data_folder):
    augmentation = AppendHello()
    datamodule = make_datamodule(data_folder, augmentation)
    batch = next(iter(datamodule.train_dataloader()))
    assert augmentation.num_texts == len(datamodule._splits["train"])
    original, augmented = decode(datamodule, batch), decode(datamodule, batch["augmented"])
    assert all(augmented_text == f"{text} hello" for text, augmented_text in zip(original, augmented, strict=True))


def test_pairs_cannot_be_augmented(data_folder):
    with pytest.raises(ValueError, match=r"data\.augmentation: .*data\.text_columns"):
        TextClassificationDataModule(str(data_folder), text_columns=["a", "b"], augmentation=TfIdfReplacement())
