"""The synthetic notes: the same everywhere, exact spans, nobody real, skewed sites, a clean test set."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from cloister.client.site.records import load
from cloister.privacy import canonical
from cloister.privacy.errors import UsageError
from cloister.simulations import identities, styles
from cloister.simulations.generator import (
    COLUMNS,
    TEST,
    Corpus,
    GeneratorSettings,
    Note,
    generate,
    records,
    write_csv,
)
from cloister.simulations.triage import DENIED, DEPARTMENTS, STRONG, WEAK

SMALL = GeneratorSettings(notes=150, test=192)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate(GeneratorSettings(canaries=3, copies=4, tiny=60))


def small() -> Corpus:
    """The corpus of the small settings, made once."""
    return _made(SMALL)


_made = cache(generate)


def notes_of(corpus: Corpus) -> list[Note]:
    return [note for notes in (*corpus.train.values(), corpus.test) for note in notes]


def digest(corpus: Corpus) -> str:
    return canonical.digest_of([note.text + note.label + note.person for note in notes_of(corpus)])


class TestDeterminism:
    def test_the_same_settings_give_the_same_corpus(self):
        assert generate(SMALL) == generate(SMALL)

    def test_the_corpus_is_the_same_on_every_machine(self):
        assert (
            digest(generate(SMALL))
            == "sha256:7770af9e3a3a3c46b66184d01525ffcba28689fdab617712900be86dc5ed0e58"
        )

    def test_another_seed_gives_other_notes(self):
        texts = {note.text for note in notes_of(small())}
        others = {note.text for note in notes_of(generate(replace(SMALL, seed=1)))}
        assert len(texts & others) < 0.02 * len(texts)

    def test_canaries_change_no_other_note(self):
        plain, planted = small(), generate(replace(SMALL, canaries=1, copies=2))
        assert plain.test == planted.test
        assert set(plain.train["riverside"]) < set(planted.train["riverside"])


class TestCounts:
    def test_sites_have_the_notes_that_were_asked_for(self, corpus):
        assert list(corpus.train) == ["riverside", "hillcrest", "lakeview", "saint-anne"]
        assert [len(notes) for notes in corpus.train.values()] == [612, 600, 600, 60]
        assert len(corpus.test) == 600

    def test_there_is_a_name_for_every_site(self):
        assert len(generate(replace(SMALL, sites=11, notes=5)).train) == 11

    def test_sites_are_where_their_notes_say_and_dates_are_in_order(self, corpus):
        for site, notes in corpus.train.items():
            assert {note.site for note in notes} == {site}
            assert [note.date for note in notes] == sorted(note.date for note in notes)

    def test_persons_have_several_notes_and_belong_to_one_site(self, corpus):
        persons = [{note.person for note in notes} for notes in (*corpus.train.values(), corpus.test)]
        assert len(set.union(*persons)) == sum(map(len, persons))
        counts = Counter(note.person for note in corpus.train["hillcrest"])
        assert max(counts.values()) == 4
        assert 1.3 < len(corpus.train["hillcrest"]) / len(counts) < 2.2

    def test_the_notes_of_a_person_agree_on_who_it_is(self, corpus):
        known: dict[tuple[str, str], str] = {}
        for note in notes_of(corpus):
            for span in note.spans:
                if span.kind != "clinician":
                    value = note.text[span.start : span.end]
                    assert known.setdefault((note.person, span.kind), value) == value


class TestSkew:
    def test_departments_differ_between_sites_and_not_over_all(self):
        corpus = generate(GeneratorSettings(notes=400))
        mixes = [Counter(note.label for note in notes) for notes in corpus.train.values()]
        assert max(mix.most_common(1)[0][1] for mix in mixes) > 0.4 * 400
        total = sum(mixes, Counter())
        assert min(total.values()) > 0.6 * 1600 / 6

    def test_a_large_alpha_takes_the_skew_away(self):
        corpus = generate(GeneratorSettings(alpha=1000.0))
        for notes in corpus.train.values():
            assert max(Counter(note.label for note in notes).values()) < 0.3 * len(notes)

    def test_each_site_has_its_own_main_style(self, corpus):
        for place, (notes, style) in enumerate(zip(corpus.train.values(), styles.STYLES, strict=True)):
            assert Counter(note.style for note in notes).most_common(1)[0][0] == style.name, place

    def test_a_site_knows_only_its_phrases_and_the_test_has_all(self):
        corpus = generate(GeneratorSettings(own_style=1.0, label_noise=0.0, phrasings=5, test=1200))
        narrative = corpus.train["riverside"]
        for department, phrases in STRONG.items():
            seen = {phrase for phrase in phrases if any(phrase in note.text for note in narrative)}
            tested = {phrase for phrase in phrases if any(phrase in note.text for note in corpus.test)}
            assert len(seen) <= 5, department
            assert tested == set(phrases), department

    def test_some_training_labels_are_wrong(self):
        right = generate(replace(SMALL, label_noise=0.0)).train["riverside"]
        wrong = generate(replace(SMALL, label_noise=1.0)).train["riverside"]
        assert {note.text for note in right} != {note.text for note in wrong}
        phrase_of = {phrase: name for name, phrases in STRONG.items() for phrase in phrases}
        told = [
            (note.label, name)
            for note in wrong
            for phrase, name in phrase_of.items()
            if f" {phrase}" in note.text
        ]
        assert len(told) > 50
        assert all(label != name for label, name in told)


class TestTestSet:
    def test_departments_and_styles_are_balanced(self):
        test = generate(replace(SMALL, test=240)).test
        assert set(Counter((note.label, note.style) for note in test).values()) == {10}

    def test_no_test_note_is_a_training_note_with_other_identifiers(self, corpus):
        def masked(note: Note) -> str:
            text = note.text
            for span in reversed(note.spans):
                text = f"{text[: span.start]}[{span.kind}]{text[span.end :]}"
            return re.sub(r"\b\d\d-year-old|\b\d\d[MF]\b|\b[MF] \d\d\b|of \d\d years", "", text)

        train = {masked(note) for notes in corpus.train.values() for note in notes}
        assert not train & {masked(note) for note in corpus.test}

    def test_leakage_is_avoided_where_chance_would_bring_it(self, monkeypatch):
        """With hardly anything to say, test notes would repeat training notes if nothing held them back."""
        few = {name: phrases[:1] for name, phrases in STRONG.items()}
        monkeypatch.setattr("cloister.simulations.generator.STRONG", few)
        corpus = generate(
            GeneratorSettings(sites=2, notes=1500, test=2400, phrasings=1, alpha=9.0, own_style=1.0)
        )

        def said(notes: tuple[Note, ...]) -> set[str]:
            """Complaint and time of the telegrams that say nothing else."""
            alone = re.compile(r"\d[MF] C/O ([^.]* x\d+\w+)\.(?! (\+|Also|Assoc|Neg|No |Nil|Course|[a-z]))")
            found = (alone.search(note.text) for note in notes)
            return {match[1] for match in found if match}

        train = said(corpus.train["hillcrest"])
        assert len(train) > 20
        assert not train & said(corpus.test)


class TestIdentifiers:
    def test_every_span_is_the_identifier_that_it_says(self, corpus):
        forms = {
            "name": r"[A-Z]\w+ [A-Z]\w+",
            "birth_date": r"\d{4}-\d\d-\d\d|\d\d[./]\d\d[./]\d{4}",
            "record_number": r"[A-H]\d{6}-\d\d",
            "phone": r"(\(\d{3}\) |\d{3}-|\d{3} )555[- ]01\d\d",
            "email": r"[a-z]+\.[a-z]+\d+@example\.org",
            "address": r"\d+ [A-Z][\w ]+, [A-Z][\w ]+ 000\d\d",
            "ssn": r"(000|666)-\d\d-\d{4}",
            "iban": r"(DE|NL|ES)\d\d [A-Z0-9 ]+",
            "card": r"[45]\d{3}( \d{4}){3}",
            "clinician": r"(Dr|Nurse) [A-Z]\w+",
            "canary": r"\d{8}",
        }
        seen = Counter()
        for note in notes_of(corpus):
            assert [span.start for span in note.spans] == sorted(span.start for span in note.spans)
            for span in note.spans:
                assert re.fullmatch(forms[span.kind], note.text[span.start : span.end]), note
                seen[span.kind] += 1
        assert set(seen) == set(forms)
        assert min(seen.values()) >= 12

    def test_nothing_outside_the_spans_looks_like_an_identifier(self, corpus):
        for note in notes_of(corpus):
            rest = note.text
            for span in reversed(note.spans):
                rest = rest[: span.start] + rest[span.end :]
            assert not re.search(r"@|555|\d{4}|\d\d[./-]\d\d", rest), note
            assert "{" not in note.text

    def test_no_card_or_account_number_holds(self, corpus):
        numbers = {"card": identities.luhn_holds, "iban": identities.iban_holds}
        found = [
            numbers[span.kind](note.text[span.start : span.end])
            for note in notes_of(corpus)
            for span in note.spans
            if span.kind in numbers
        ]
        assert len(found) > 50
        assert not any(found)

    @pytest.mark.parametrize(
        ("holds", "good", "bad"),
        [
            (identities.luhn_holds, "4242 4242 4242 4242", "4242 4242 4242 4243"),
            (identities.luhn_holds, "79927398713", "79927398710"),
            (identities.iban_holds, "GB82 WEST 1234 5698 7654 32", "GB83 WEST 1234 5698 7654 32"),
            (identities.iban_holds, "DE89 3704 0044 0532 0130 00", "DE89 3704 0044 0532 0130 01"),
        ],
    )
    def test_the_checks_know_right_from_wrong(self, holds, good, bad):
        assert holds(good)
        assert not holds(bad)

    def test_ages_fit_birth_dates(self):
        born = datetime.date(1970, 6, 15)
        patient = identities.Person("p", True, born, {})
        assert patient.age(datetime.date(2023, 6, 14)) == 52
        assert patient.age(datetime.date(2023, 6, 15)) == 53


class TestCanaries:
    def test_each_secret_stands_in_its_copies_at_the_first_site_and_nowhere_else(self, corpus):
        assert len(set(corpus.canaries)) == 3
        for secret in corpus.canaries:
            holders = [note for note in notes_of(corpus) if secret in note.text]
            assert [note.site for note in holders] == ["riverside"] * 4
            assert len(set(holders)) == 1

    def test_without_canaries_there_are_none(self):
        assert small().canaries == ()


class TestPhrases:
    def test_every_department_has_enough_different_phrases(self):
        for phrases in STRONG.values():
            assert 25 <= len(phrases) <= 40
        assert len({phrase for phrases in STRONG.values() for phrase in phrases}) == sum(
            len(phrases) for phrases in STRONG.values()
        )

    def test_weak_findings_are_shared_and_every_department_has_several(self):
        assert all(len(shared) >= 2 for shared in WEAK.values())
        for department in DEPARTMENTS:
            assert sum(department in shared for shared in WEAK.values()) >= 8

    def test_notes_hold_denials_that_do_not_contradict_their_complaint(self):
        notes = [note for note in small().test if note.style == "front-desk"]
        denied = [(note, phrase) for note in notes for phrase in DENIED if f"No {phrase}" in note.text]
        assert len(denied) > 5
        assert not [phrase for note, phrase in denied if note.text.count(phrase) > 1]

    def test_telegrams_are_shortened(self):
        assert styles.shorten("chest pain with shortness of breath and a tremor") == "CP w SOB & tremor"


class TestBoundary:
    def test_a_site_can_load_what_was_written(self, tmp_path):
        notes = small().train["hillcrest"]
        write_csv(tmp_path / "notes.csv", notes)
        assert load(
            tmp_path / "notes.csv", text="text", label="label", person="person", site="site"
        ) == records(notes)
        assert (tmp_path / "notes.csv").read_text().startswith(",".join(COLUMNS))

    def test_test_notes_come_from_no_site(self):
        assert {note.site for note in small().test} == {TEST}

    @pytest.mark.parametrize(
        "wrong",
        [
            {"sites": 0},
            {"notes": 0},
            {"tiny": 0},
            {"alpha": 0.0},
            {"phrasings": 33},
            {"phrasings": 0},
            {"label_noise": 1.5},
            {"weak_only": -0.1},
            {"canaries": -1},
        ],
    )
    def test_settings_out_of_range_are_refused(self, wrong):
        with pytest.raises(UsageError) as caught:
            GeneratorSettings(**wrong)
        assert caught.value.id == "option_invalid"
