"""What may be written into an event log: the types, their fields, and the kind of every field.

``FAMILIES`` is the whole vocabulary, as data. Later releases add types to it; they never change the
form of a line (``events``) nor the meaning of a type that exists.

Formal guarantees:
    A value is a digest, a name that parties chose for themselves, one of a closed set of words, an
    error id, a calendar date, the version of a program, a wide band, or a number that the plan or the
    protocol makes public.
    No kind takes free text, a path, a host name, an exact number of records, a row's id, a norm, a
    loss or a seed. What was measured on test data appears in steps of 0.01 and is not covered by
    epsilon unless the event says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

from cloister.privacy import canonical
from cloister.privacy.errors import areas
from cloister.privacy.policy.rules import RULE_IDS

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_BAND = re.compile(r"(0|[1-9]\d{0,11})-([1-9]\d{0,11})")
_VERSION = re.compile(
    r"\d{1,5}(\.\d{1,5}){0,3}((a|b|rc)\d{1,4})?(\.post\d{1,4})?(\.dev\d{1,10})?"
    r"(\+(cpu|cu\d{2,4}|rocm\d{1,2}(\.\d{1,2}){0,2}|xpu|other))?",
    re.ASCII,
)
_REASONS = frozenset(reason for area in areas() for reason in area.REASONS)


@dataclass(frozen=True)
class Kind:
    """A set of allowed values: ``meaning`` for people, ``holds`` for the check."""

    meaning: str
    holds: Callable[[object], bool]


def _whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(low: float, high: float) -> Callable[[object], bool]:
    return lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    )


def _pattern(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def one_of(*words: str) -> Kind:
    """One of these words."""
    return Kind("one of " + ", ".join(words), lambda value: isinstance(value, str) and value in words)


def many(kind: Kind) -> Kind:
    """A set of values of a kind, as a list in ascending order: it does not tell who came first."""

    def holds(value: object) -> bool:
        if not isinstance(value, list | tuple) or not all(map(kind.holds, value)):
            return False
        return all(a < b for a, b in pairwise(value))

    return Kind(f"set of: {kind.meaning}", holds)


def _is_date(value: object) -> bool:
    if not isinstance(value, str) or _DATE.fullmatch(value) is None:
        return False
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _is_band(value: object) -> bool:
    """A band says little: it is at least 10 wide and its high end at least a quarter above its low end."""
    match = _BAND.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return False
    low, high = int(match[1]), int(match[2])
    return high - low >= max(9, low / 4)


def _is_hundredth(value: object) -> bool:
    return isinstance(value, int | float) and _number(0, 1)(value) and round(value, 2) == value


def _is_bits(value: object) -> bool:
    return isinstance(value, int | float) and _number(0, 64)(value) and round(value, 2) == value


DIGEST = Kind("digest, sha256:<64 hexadecimal digits>", canonical.is_digest)
NAME = Kind("name of a party or dataset", _pattern(_NAME))
REASON = Kind("error id", lambda value: isinstance(value, str) and value in _REASONS)
DATE = Kind("calendar date, YYYY-MM-DD", _is_date)
BAND = Kind("wide band of a number of records or persons, low-high", _is_band)
COUNT = Kind("public whole number from 0", _whole(0, 2**53 - 1))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
EPSILON = Kind("epsilon, 0 to 1e9", _number(0, 1e9))
DELTA = Kind("delta, 0 to below 1", lambda value: _number(0, 1)(value) and value != 1)
RATE = Kind("sampling rate of the plan, above 0 to 1", lambda value: _number(0, 1)(value) and value != 0)
SCALE = Kind("noise multiplier or clipping bound of the plan, 0 to 1e9", _number(0, 1e9))
HUNDREDTH = Kind("share of test data in steps of 0.01", _is_hundredth)
VERSION = Kind("version of a program", _pattern(_VERSION))
BITS = Kind("bits in steps of 0.01, 0 to 64", _is_bits)

ROLE = one_of("lead", "site", "auditor", "witness")
PERSON = one_of("lead", "administrator", "steward", "researcher", "auditor", "validator")
GRANTER = one_of("lead", "administrator", "steward", "researcher", "auditor", "validator", "policy")
"""A person's role, or the site's policy where it approves by itself."""
RULE = Kind("id of a rule of a site's policy", lambda value: isinstance(value, str) and value in RULE_IDS)
UNIT = one_of("record", "person")
MODE = one_of("local", "joint", "off")
ACCOUNTANT = one_of("rdp", "pld", "prv")
MESSAGE = one_of("task", "update", "refusal", "finish", "closed")
ROUTE = one_of("flower", "consortium")
TLS = one_of("1.2", "1.3", "not-seen")
CIPHER = one_of(
    "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "other", "not-seen"
)
GROUP = one_of(
    "X25519MLKEM768",
    "SecP256r1MLKEM768",
    "SecP384r1MLKEM1024",
    "X25519",
    "P-256",
    "P-384",
    "other",
    "not-seen",
)
SPAN = one_of("seconds", "minutes", "hours", "days")
"""A time: under a minute, under an hour, under a day, or longer (``timekeeping.span``)."""
METHOD = one_of("mtls", "node-key", "signature", "invite", "words", "authority")
STAGE = one_of("plan", "start", "first-release", "release", "policy")
ARTEFACT = one_of("adapter", "model", "metrics", "report")
IDENTIFIERS = (
    "resident",
    "card",
    "iban",
    "ssn",
    "nhs",
    "mrn",
    "mac",
    "ip",
    "email",
    "url",
    "phone",
    "date",
    "address",
    "zip",
    "name",
    "unsettled",
    "own",
)
"""Kinds of identifiers that a site counts in its texts; ``own`` are those of its own patterns."""
Library: TypeAlias = Literal["torch", "opacus", "dp-accounting", "flwr", "numpy", "cryptography"]
LIBRARIES: tuple[Library, ...] = get_args(Library)
"""What trains, keeps account, connects and seals, by the names of its distributions."""
ATTACK = one_of("canaries", "membership")
METRIC = one_of("accuracy", "macro-f1", "auc", "worst-site-accuracy")

Fields = Mapping[str, Kind]


@dataclass(frozen=True)
class Family:
    """One type of event.

    Args:
        fields: name -> kind; a name that ends in ``?`` may be left out.
        job: whether events of this type name a job: ``never``, ``maybe`` or ``always``.
        round: likewise for a round; a round always comes with its job.
    """

    fields: Fields
    job: str = "never"
    round: str = "never"


def _party(fields: Fields) -> Family:
    return Family(fields)


def _job(fields: Fields) -> Family:
    return Family(fields, job="always", round="maybe")


def _round(fields: Fields) -> Family:
    return Family(fields, job="always", round="always")


def _any(fields: Fields) -> Family:
    return Family(fields, job="maybe", round="maybe")


_DOCUMENT = one_of("data-use-agreement", "processor-agreement", "ethics-approval", "permit", "other")
_CHANGE = one_of("tighter", "looser", "mixed", "same")
_SEVERITY = one_of("low", "medium", "high")
_SITES = many(NAME)
_DATASET = {
    "dataset": NAME,
    "rows": BAND,
    "unit": UNIT,
    "persons?": BAND,
    "cap?": COUNT,
    "columns?": DIGEST,
    "read?": COUNT,
    "commitment?": DIGEST,
}
_OUTCOME = {"attempt?": COUNT, "accepted?": _SITES, "refused?": _SITES, "lost?": _SITES}
_ENVELOPE = {"message?": MESSAGE, "attempt?": COUNT, "site?": NAME}
_KEY = {"party": NAME, "identity": DIGEST}
_CHARGE = {"dataset": NAME, "unit": UNIT, "epsilon": EPSILON, "delta": DELTA}
_LEDGER = _CHARGE | {"reservation": DIGEST, "accountant": ACCOUNTANT, "total": EPSILON}

FAMILIES: Mapping[str, Family] = {
    # The log itself. `identity` binds the chain to the writer's keys.
    "log.opened": _party({"identity": DIGEST, "previous?": DIGEST}),
    "log.recovered": _party({"bytes": COUNT}),
    # Nothing else was written for a while, and the process that keeps the log is there (``keeping``).
    "log.heartbeat": _party({}),
    # That process ended as it should; it is there again after a while; it came without having ended so; it
    # stood still; or the log could not be written, and what was to be written then is lost.
    "log.stopped": _party({}),
    "log.gap": _party({"lasted": SPAN, "reason": one_of("restart", "unclean", "paused", "unwritable")}),
    "log.rotated": _party({"identity": DIGEST}),
    # The log before, under the keys `previous`, is a copy that ends at `size`: begun anew after a restore.
    # What was written after `size` is lost. `held` is the size of the newest head of it that others held; a
    # lead, which can ask nobody, leaves it out.
    "log.restored": _party({"previous": DIGEST, "size": COUNT, "root": DIGEST, "held?": COUNT}),
    "log.reviewed": _party({"size": COUNT, "root": DIGEST, "role": PERSON}),
    "log.witnessed": _any({"party": NAME, "size": COUNT, "root": DIGEST}),
    "log.countersigned": _any({"witness": NAME, "size": COUNT, "root": DIGEST}),
    # The clock of the writer's machine, by its kernel (``timekeeping``): whether anything keeps it in step,
    # and how wrong it may be at most. A clock that was set is written down by whoever notices.
    "clock.status": _any(
        {
            "occasion": one_of("start", "job", "change"),
            "state": one_of("synchronised", "not-synchronised", "unknown"),
            "source": one_of("pulse", "service", "none", "unknown"),
            "error": one_of("10ms", "100ms", "1s", "10s", "more", "unknown"),
        }
    ),
    "clock.stepped": _party({"way": one_of("back", "forward"), "by": SPAN}),
    # Keys, certificates, members, connections.
    "key.enrolled": _party({**_KEY, "role": ROLE, "not_after?": DATE}),
    "key.confirmed": _party({**_KEY, "method": METHOD}),
    "key.rotated": _party({**_KEY, "previous": DIGEST}),
    "key.revoked": _party({**_KEY, "reason?": REASON}),
    "certificate.issued": _party(
        {"party": NAME, "certificate": DIGEST, "use": one_of("site", "operator", "server"), "not_after": DATE}
    ),
    "invite.issued": _party({"party": NAME, "invite": DIGEST, "not_after": DATE}),
    "invite.refused": _party({"reason": REASON, "party?": NAME, "invite?": DIGEST}),
    "roster.changed": _party({"roster": DIGEST, "members": _SITES}),
    "site.joined": _party({"site": NAME, "identity": DIGEST}),
    "site.withdrew": _any({"site": NAME, "reason?": REASON}),
    "site.lost": _any({"site": NAME, "reason": REASON}),
    "site.returned": _any({"site": NAME}),
    "auth.ok": _party({"method": METHOD, "route": ROUTE, "party?": NAME, "certificate?": DIGEST}),
    "auth.failed": _party(
        {"method": METHOD, "route": ROUTE, "reason": REASON, "party?": NAME, "certificate?": DIGEST}
    ),
    "channel.opened": _party(
        {
            "party": NAME,
            "route": ROUTE,
            "tls": TLS,
            "cipher": CIPHER,
            "group": GROUP,
            "local": DIGEST,
            "remote?": DIGEST,
        }
    ),
    "channel.refused": _party(
        {
            "route": ROUTE,
            "reason": REASON,
            "party?": NAME,
            "tls?": TLS,
            "cipher?": CIPHER,
            "group?": GROUP,
            "remote?": DIGEST,
        }
    ),
    # What is allowed, and who allowed it.
    "policy.loaded": _party({"policy": DIGEST, "signers?": many(PERSON)}),
    "policy.changed": _party(
        {"policy": DIGEST, "previous": DIGEST, "change": _CHANGE, "signers?": many(PERSON)}
    ),
    "policy.rejected": _party({"policy": DIGEST, "reason": REASON}),
    "policy.decision": _any(
        {
            "policy": DIGEST,
            "request": DIGEST,
            "rules": many(RULE),
            "outcome": one_of("allow", "ask", "refuse"),
            "shared?": DIGEST,
        }
    ),
    "person.enrolled": _party({"role": PERSON, "key?": DIGEST}),
    "person.removed": _party({"role": PERSON, "key?": DIGEST}),
    # A paper that the policy asks for before a dataset is used, as it stood when the plan was approved.
    "consent.recorded": _job({"document": DIGEST, "form": _DOCUMENT, "dataset": NAME, "not_after": DATE}),
    "approval.requested": _any({"subject": DIGEST, "stage": STAGE, "role": PERSON}),
    # `key`: of the person, where the site knows one; the approval was signed with it.
    "approval.granted": _any({"subject": DIGEST, "stage": STAGE, "role": GRANTER, "key?": DIGEST}),
    "approval.denied": _any({"subject": DIGEST, "stage": STAGE, "role": PERSON, "reason?": REASON}),
    "approval.timeout": _any({"subject": DIGEST, "stage": STAGE, "role": PERSON}),
    # Jobs and rounds. `job` is the digest of the plan.
    "job.proposed": _job({"base": DIGEST, "roster": DIGEST, "code": DIGEST, "sites": _SITES}),
    "job.accepted": _job({"site?": NAME}),
    "job.refused": _job({"reason": REASON, "site?": NAME}),
    "job.started": _job({"model": DIGEST, "code": DIGEST}),
    "job.resumed": _job({"model": DIGEST, "code": DIGEST}),
    "job.finished": _job({"model": DIGEST, "rounds": COUNT}),
    "job.aborted": _job({"reason": REASON, "rounds": COUNT}),
    # What a process ran on that took part in a job (``software``), whenever it began with it. `image` is the
    # word of whoever started it.
    "software.recorded": _job(
        {
            "python": VERSION,
            "code": DIGEST,
            "installed": DIGEST,
            **{f"{name}?": VERSION for name in LIBRARIES},
            "image?": DIGEST,
        }
    ),
    # `commitment` is keyed by a secret of the site: it tells whether data changed, and nothing of them.
    # `read` counts the columns that are read. Of others nothing is told: in some sources single rows decide.
    "dataset.registered": _party({**_DATASET, "pinned": FLAG}),
    "dataset.opened": _any(_DATASET),
    "dataset.changed": _any(
        {"dataset": NAME, "previous": DIGEST, "commitment": DIGEST, "outcome": one_of("allowed", "refused")}
    ),
    # What detectors found in a dataset's texts, and what was done. Every kind is always there, and not found
    # looks like found a few times. `detector` is the digest of the detectors that ship.
    "deid.scan": _any(
        {
            "dataset": NAME,
            "action": one_of("warn", "mask", "refuse"),
            "detector": DIGEST,
            "texts": BAND,
            **dict.fromkeys(IDENTIFIERS, BAND),
        }
    ),
    "round.opened": _round({"model": DIGEST, "attempt?": COUNT, "invited?": _SITES}),
    "round.closed": _round({"model": DIGEST, "rule?": one_of("weighted-mean"), **_OUTCOME}),
    "round.aborted": _round({"reason": REASON, **_OUTCOME}),
    # Secure aggregation (privacy.secagg.rounds): what a site signed and opened, and the whole at the lead.
    "sum.agreed": _job({"sites": _SITES}),
    "sum.signed": _round({"survivors": _SITES, "step": COUNT}),
    "sum.opened": _round({"missing": _SITES, "step": COUNT}),
    "sum.recovered": _round({"lost": _SITES, "step": COUNT}),
    "sum.closed": _round({"survivors": _SITES, "signed": _SITES, "opened": _SITES, "step": COUNT}),
    # Surplus noise of a joint step (privacy.secagg.surplus): what a site gave, and the noise multiplier that
    # all survivors but t leave in the sum; at the lead, why all noise stayed although some was surplus.
    "surplus.given": _round({"survivors": _SITES, "sealed": DIGEST, "bytes": COUNT, "noise_left": SCALE}),
    "surplus.kept": _round({"reason": REASON, "survivors": _SITES}),
    "step.unchecked": _round({}),  # joint mode: a site could not take the step again that led to a model
    # Every sealed envelope, at both ends. `sealed` is the digest of its bytes.
    "update.sent": _round({"sealed": DIGEST, "bytes": COUNT, "model?": DIGEST, **_ENVELOPE}),
    "update.received": _round({"sealed": DIGEST, "bytes?": COUNT, **_ENVELOPE}),
    "update.accepted": _round({"sealed": DIGEST, "site?": NAME}),
    "update.refused": _any({"reason": REASON, "sealed?": DIGEST, "site?": NAME}),
    "update.acknowledged": _job({"sealed": DIGEST, "site?": NAME}),
    # Bytes of all envelopes of a site, as one process of the lead counted them.
    "traffic.counted": _job({"site": NAME, "bytes_up": COUNT, "bytes_down": COUNT}),
    # Privacy. `reservation` ties what was reserved, spent and released.
    "dp.step_summary": _round(
        {
            "mode": MODE,
            "unit": UNIT,
            "mechanism": one_of("gaussian", "discrete-gaussian"),
            "sampler": one_of("poisson", "full-batch", "shuffled"),
            "entropy": one_of("ratchet", "fixed"),
            "noise_multiplier": SCALE,
            "clip": SCALE,
            "rate": RATE,
            "steps": COUNT,
        }
    ),
    # Phantom units (privacy.dp.audit): the coins are bound before the first round, scored after the last.
    "audit.committed": _job({"commitment": DIGEST, "phantoms": COUNT, "guesses": COUNT}),
    "audit.result": _job(
        {
            "commitment": DIGEST,
            "correct": COUNT,
            "claimed": EPSILON,
            "bound": EPSILON,
            "delta": DELTA,
            "failed": FLAG,
        }
    ),
    # Attacks on the finished model (privacy.dp.membership). What a site makes up and may train on is bound
    # before the first round. `covered`: whether the figures are covered by the job's epsilon.
    "audit.planted": _job({"commitment": DIGEST, "canaries": COUNT, "guesses": COUNT}),
    "audit.opened": _job({"commitment": DIGEST, "opening": DIGEST}),
    "audit.model": _job(
        {
            "attack": ATTACK,
            "model": DIGEST,
            "commitment?": DIGEST,
            "trials": COUNT,
            "guesses": COUNT,
            "correct": COUNT,
            "bound": EPSILON,
            "delta": DELTA,
            "auc?": HUNDREDTH,
            "accused?": HUNDREDTH,
            "found?": HUNDREDTH,
            "exposure?": BITS,
            "covered": FLAG,
        }
    ),
    # A model that writes, asked for the answers of canaries: how many it gave word for word of those that it
    # was trained on, of the others, and how many of the former its base model gave.
    "audit.extracted": _job(
        {
            "model": DIGEST,
            "commitment": DIGEST,
            "trained": COUNT,
            "extracted": COUNT,
            "others": COUNT,
            "guessed": COUNT,
            "before": COUNT,
            "covered": FLAG,
        }
    ),
    "budget.opened": _party(_CHARGE),
    "budget.reserved": _job({**_LEDGER, "before?": EPSILON}),  # what the ledger stood at, over all jobs
    "budget.spent": _job(_LEDGER),
    "budget.released": _job({**_LEDGER, "sealed?": DIGEST}),
    "budget.refused": _job({**_CHARGE, "reason": REASON, "limit": EPSILON}),
    "budget.exhausted": _any({"dataset": NAME, "unit": UNIT, "limit": EPSILON}),
    # Results and what becomes of them.
    "eval.recorded": _job(
        {
            "metric": METRIC,
            "split": one_of("test", "public"),
            "value": HUNDREDTH,
            "sites": COUNT,
            "rows?": BAND,
            "covered": FLAG,
        }
    ),
    "release.requested": _job({"artefact": DIGEST, "form": ARTEFACT, "recipient?": NAME}),
    "release.approved": _job({"artefact": DIGEST, "form": ARTEFACT, "role": PERSON}),
    "release.denied": _job({"artefact": DIGEST, "form": ARTEFACT, "role": PERSON, "reason?": REASON}),
    "release.exported": _job({"artefact": DIGEST, "form": ARTEFACT, "recipient?": NAME}),
    "model.received": _job({"model": DIGEST}),
    "model.released": _job({"model": DIGEST, "version?": COUNT, "recipients?": _SITES}),
    "model.rolled_back": _job({"model": DIGEST, "version": COUNT}),
    "incident.raised": _any({"reason": REASON, "severity?": _SEVERITY, "party?": NAME}),
    "incident.closed": _any({"reason": REASON, "incident": DIGEST}),
    "report.built": _any({"bundle": DIGEST}),
    "report.verified": _any(
        {
            "bundle": DIGEST,
            "result": one_of("verified", "altered", "incomplete", "not-reproducible", "untrusted-key"),
        }
    ),
}
