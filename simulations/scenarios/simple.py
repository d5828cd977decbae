"""The simple model that every other has to be compared with: no base model, no federation, no privacy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from cloister.client.site.tagging import listed
from cloister.simulations.engine.holding import Holding, pooled
from cloister.simulations.scenarios.material import Material


def simple(material: Material) -> tuple[float, str]:
    """Test accuracy and name: (TF-IDF and) logistic regression on texts (tables), all rows pooled.

    Of tags it is the F1 of entities, by logistic regression on each word, its neighbours and its ending.
    """
    rows, test = pooled(material.train), material.test
    if material.texts is None:
        model = LogisticRegression(max_iter=1000).fit(rows.features, rows.labels)
        return float(model.score(test.features, test.labels)), "logistic regression on the same columns"
    train, texts = material.texts
    if material.tagged:
        return _tagged([text for site in train.values() for text in site], rows, texts, test)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit([text for site in train.values() for text in site], rows.labels)
    return float(model.score(texts, test.labels)), "TF-IDF and logistic regression"


def _tagged(
    texts: Sequence[str], rows: Holding, test_texts: Sequence[str], test: Holding
) -> tuple[float, str]:
    model = make_pipeline(DictVectorizer(), LogisticRegression(C=10, max_iter=1000))
    model.fit(list(_traits(texts, rows)), rows.labels)
    found = model.predict(list(_traits(test_texts, test)))
    return test.score(found), "logistic regression on words and their neighbours"


def _traits(texts: Sequence[str], holding: Holding) -> Iterable[dict[str, str]]:
    """What is looked at of each word that the other models read, too."""
    documents = np.arange(len(holding)) if holding.documents is None else holding.documents
    counts = np.bincount(documents)
    for text, many in zip(texts, counts, strict=True):
        words = ["", *listed(text), ""]
        for place in range(1, many + 1):
            word = words[place]
            yield {
                "word": word.lower(),
                "ending": word[-3:].lower(),
                "before": words[place - 1].lower(),
                "after": words[place + 1].lower(),
                "capitals": "all" if word.isupper() else "first" if word[:1].isupper() else "none",
            }
