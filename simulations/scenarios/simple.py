"""The simple model that every other has to be compared with: no base model, no federation, no privacy."""

from __future__ import annotations

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from cloister.simulations.engine.holding import pooled
from cloister.simulations.scenarios.material import Material


def simple(material: Material) -> tuple[float, str]:
    """Test accuracy and name: (TF-IDF and) logistic regression on texts (tables), all rows pooled."""
    rows, test = pooled(material.train), material.test
    if material.texts is None:
        model = LogisticRegression(max_iter=1000).fit(rows.features, rows.labels)
        return float(model.score(test.features, test.labels)), "logistic regression on the same columns"
    train, texts = material.texts
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit([text for site in train.values() for text in site], rows.labels)
    return float(model.score(texts, test.labels)), "TF-IDF and logistic regression"
