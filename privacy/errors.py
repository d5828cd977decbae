"""The errors of Cloister: one root, one class per area, a stable id for every reason.

::

    CloisterError
    ├── UsageError        the command was called wrongly (exit 2)
    ├── InputError        data, columns, files or settings of this machine cannot be used
    ├── PlanError         a plan is malformed, unsigned, or asks for what cannot be done
    ├── PolicyError       the site's policy is missing, malformed or refuses
    ├── IdentityError     a key, roster or fingerprint does not hold
    ├── EnrolmentError    an invite or a request to join was refused
    ├── ChannelError      something sealed, signed or encrypted does not open or verify
    ├── UpdateError       an update is not what the plan says
    ├── RoundError        a round, or a whole run, could not be completed
    ├── BudgetError       the privacy ledger refuses
    ├── EntropyError      a random stream would be used twice or cannot be kept
    ├── LogError          the event log is damaged or cannot be written
    ├── EvidenceError     a bundle of evidence does not hold
    ├── ModelError        the base model or adapter is not the one agreed
    ├── StateError        the state on disk cannot be read or written
    └── TransportError    Flower or the consortium service cannot be reached or refuses

An error carries three things: ``id``, stable over releases and the only part that ever leaves a
site; ``what``, one line that says what happened; ``do``, one line that says what to do next.
``what`` and ``do`` are for the person at this machine: they may name files and columns of this
machine, never contents of records.

Every id is declared in ``REASONS`` of its class, with its meaning; an undeclared id is a bug and
raises ``KeyError`` where it is used. ``docs/errors.md`` lists them all, which a test checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class CloisterError(Exception):
    """Root of all errors that Cloister raises on purpose.

    Args:
        reason: one of the ids declared in ``REASONS`` of the class.
        what: one line, what happened.
        do: one line, what to do next; empty where nothing can be done here.
    """

    EXIT: ClassVar[int] = 1
    REASONS: ClassVar[dict[str, str]] = {}

    def __init__(self, reason: str, what: str, do: str = "") -> None:
        self.meaning = self.REASONS[reason]
        self.id = reason
        self.what = what
        self.do = do
        super().__init__(f"{what} {do}".strip())

    def line(self) -> str:
        """The one line a person sees: what happened, what to do, and the id to search for."""
        return f"{self.what}{' ' + self.do if self.do else ''} [{self.id}]"


class UsageError(CloisterError):
    """The command was called wrongly."""

    EXIT = 2
    REASONS: ClassVar[dict[str, str]] = {
        "option_invalid": "an option has a value that it does not take",
        "folder_in_use": "the output folder already holds something else",
    }


class InputError(CloisterError):
    """Data, columns, files or settings of this machine cannot be used."""

    REASONS: ClassVar[dict[str, str]] = {
        "file_missing": "a named file does not exist or cannot be read",
        "file_format": "a file is not of a format that is read here",
        "evidence_malformed": "the evidence of a report is incomplete, malformed or contradicts itself",
        "column_missing": "a named column is not in the data",
        "column_twice": "a table or an object has the same name twice",
        "column_type": "a column holds neither texts nor numbers, or mixes them",
        "cell_invalid": "a cell has a NUL or half a character pair, or is too long",
        "value_missing": "a row lacks its text, its label or another value that is needed",
        "person_missing": "a row lacks the id of the person it is about",
        "one_class": "the data holds one class only, so there is nothing to learn",
        "class_unknown": "a label of the data is not among the classes of the plan",
        "category_unknown": "a cell of a table is none of the values that its column may have",
        "tags_invalid": "rows do not have one tag a word, or spans within their text",
        "site_empty": "a site would have no rows",
        "site_too_small": "a site has fewer rows than the plan allows",
        "rows_changed": "a dataset no longer has the size it was registered with",
        "data_changed": "a pinned dataset is not the one that was registered",
        "source_invalid": "the URL or query of a database is not one that is read here",
        "source_replaced": "a link stands where a registered file was",
        "database_failed": "a database cannot be reached, or refuses or breaks off a query",
        "driver_missing": "the driver of a database is not installed",
        "password_exposed": "a database URL holds a password, which would be stored and shown",
        "password_missing": "the password of a database is not where it should be, or others may read it",
        "split_invalid": "a split is not one of those that exist, or cannot be made on this data",
        "identifiers_found": "texts hold what looks like identifiers of people, and the site refuses such",
        "patterns_malformed": "a site's own patterns of identifiers cannot be used",
        "extra_missing": "an optional package is not installed",
        "port_in_use": "another program listens on a port that is needed",
    }


class PlanError(CloisterError):
    """A plan is malformed, unsigned, or asks for what cannot be done."""

    REASONS: ClassVar[dict[str, str]] = {
        "plan_malformed": "a plan is not canonical, or a field is missing, unknown or out of range",
        "plan_unsigned": "a plan is not signed by the lead of this consortium",
        "plan_unknown": "a message names a plan that is not open here: not approved, or over",
        "plan_not_approved": "a plan waits for an approval",
        "plan_conflict": "two parts of a plan cannot live together",
        "code_mismatch": "the installed code is not the one the plan names",
        "table_malformed": "a file of columns has a key, range, value or class that cannot be used",
        "task_unsupported": "the plan asks for a task, adapter or model that is not supported",
    }


class PolicyError(CloisterError):
    """The site's policy is missing, malformed or refuses."""

    REASONS: ClassVar[dict[str, str]] = {
        "policy_missing": "the site has no policy, so it refuses everything",
        "policy_malformed": "a policy has a key that is unknown, missing, written twice or out of range",
        "policy_refused": "the policy of the site does not allow the plan, or not now",
        "policy_mismatch": "the consortium's policy that came with a plan is not the one that the plan names",
        "policy_waits": "a plan waits for approvals that the policy of the site asks for",
        "decision_altered": "a decision is not what its policy and its request give",
        "approval_invalid": "an approval is by nobody who may give it, or its signature is wrong",
        "approval_timeout": "the approvals that the policy asks for were not given in time",
    }


class IdentityError(CloisterError):
    """A key, roster or fingerprint does not hold."""

    REASONS: ClassVar[dict[str, str]] = {
        "identity_malformed": "a public identity is malformed",
        "identity_missing": "no identity was made in this folder yet",
        "roster_mismatch": "the roster of a message is not the one approved here",
        "peer_unconfirmed": "a key of the roster was never confirmed at this site",
        "fingerprint_mismatch": "the words that were typed are not those of the key",
        "key_duplicate": "two parties use the same key or the same name",
        "party_unknown": "no party of that name is in the roster",
        "key_revoked": "a key was revoked by the lead",
        "endorsement_malformed": "an authority's statement about a member cannot be read, or cannot be made",
        "endorsement_other": "a statement of an authority is about another member, consortium or keys",
        "endorsement_expired": "an authority's statement is not valid on this day",
        "authority_unknown": "the policy does not name the authority that signed a statement",
    }


class EnrolmentError(CloisterError):
    """An invite or a request to join was refused."""

    REASONS: ClassVar[dict[str, str]] = {
        "invite_malformed": "an invite cannot be read",
        "invite_expired": "an invite is past its date",
        "invite_used": "an invite was used already, by another key",
        "invite_unknown": "the lead does not know the invite",
        "invite_other_site": "an invite is for a site of another name",
        "request_unsigned": "a request to join is not signed by the keys that it brings",
        "name_taken": "another party has the name",
        "already_enrolled": "this site is a member already",
        "not_enrolled": "this site is not a member yet",
        "withdrawn": "the site has left the job or the consortium",
    }


class ChannelError(CloisterError):
    """Something sealed, signed or encrypted does not open or verify."""

    REASONS: ClassVar[dict[str, str]] = {
        "envelope_malformed": "an envelope is not of the wire format",
        "envelope_too_large": "an envelope is larger than the plan allows",
        "seal_invalid": "a sealed key does not open: wrong recipient, context or altered bytes",
        "stream_invalid": "a sealed body was cut, reordered, swapped or altered",
        "signature_invalid": "a signature does not verify under the sender's key",
        "wrong_context": "a message is for another plan, round, attempt, sender or recipient",
        "replay": "a message was seen before, or its round is already over",
        "tls_group_not_pq": "the connection did not use a hybrid post-quantum key exchange",
        "tls_version_too_low": "the connection is below TLS 1.3",
        "client_cert_missing": "the caller presented no certificate",
        "certificate_invalid": "a certificate is malformed, expired or signed by another authority",
    }


class UpdateError(CloisterError):
    """An update is not what the plan says."""

    REASONS: ClassVar[dict[str, str]] = {
        "update_not_finite": "an update holds NaN or infinity",
        "update_shape": "an update has another number of values than the plan",
        "update_model_mismatch": "an update starts from another global model",
        "update_range": "a value of an update is beyond the range of the plan",
        "update_unclipped": "an update was to leave without clipping",
        "update_unnoised": "an update was to leave without the noise that the plan asks for",
        "audit_failed": "phantom units saw other noise, clipping or sampling than the plan's",
    }


class AggregationError(CloisterError):
    """Secure aggregation refuses: what was asked could tell more than the sum."""

    REASONS: ClassVar[dict[str, str]] = {
        "terms_too_weak": "the terms of secure aggregation do not protect a single update",
        "key_unusable": "a key for secure aggregation is malformed, or gives no shared secret",
        "keys_missing": "keys for secure aggregation were not agreed with every site yet",
        "sum_unknown": "a message is about a secure sum that this party is not in",
        "sum_over": "a secure sum was asked for again after it was over, or out of order",
        "survivors_invalid": "a survivor set names no subset of the plan's sites, or not this one",
        "survivor_set_fixed": "another survivor set was signed for the round before",
        "below_n_min": "a survivor set is smaller than the plan's minimum",
        "too_few_signatures": "too few survivors signed the survivor set",
        "model_differs": "sites started the round from different global models",
        "both_kinds_requested": "both kinds of secrets were asked for about one site",
        "reveal_malformed": "what a site revealed is not what was asked of it",
        "share_malformed": "a share of a secret is malformed or of the wrong holder",
        "too_few_shares": "too few shares are left to open the mask of a site that was lost",
        "sum_lost": "a site went away after signing while another was missing, so the sum cannot be opened",
        "commitment_mismatch": "a revealed secret is not the one that was committed to",
        "surplus_refused": "surplus noise was asked for too early, too late, or for another survivor set",
        "step_differs": "a global model is not what the step from the opened sum leads to",
    }


class RoundError(CloisterError):
    """A round, or a whole run, could not be completed."""

    REASONS: ClassVar[dict[str, str]] = {
        "below_minimum": "fewer sites answered than the plan's minimum",
        "nothing_aggregated": "no update could be used in a round",
        "site_failed": "a site answered with an error",
        "site_lost": "a site went away and did not come back in time",
        "site_refused": "a site refuses the job",
        "deadline": "the time for an answer is over",
        "stopped": "the run was stopped by its operator",
        "internal": "an unforeseen failure; its text stays at the party where it happened",
    }


class BudgetError(CloisterError):
    """The privacy ledger refuses."""

    REASONS: ClassVar[dict[str, str]] = {
        "budget_exceeded": "the ledger would pass its limit",
        "budget_missing": "no budget was set for the dataset",
        "budget_conflict": "a budget exists with other terms, or is not one",
        "data_twice": "the same data have a budget under another name",
        "ledger_behind": "a shared ledger may lack charges of a folder that has not compared its log with it",
        "reservation_unknown": "a spend names a reservation that does not exist",
        "reservation_conflict": "a reservation exists with other parameters",
        "mechanism_unaccountable": "no sound account is known for the mechanism",
    }


class EntropyError(CloisterError):
    """A random stream would be used twice or cannot be kept."""

    REASONS: ClassVar[dict[str, str]] = {
        "key_already_used": "a key stream was asked for a second time",
        "ratchet_behind": "the ratchet has moved past the round that was asked for",
        "ratchet_unwritable": "the ratchet's state cannot be written, so nothing random may be drawn",
    }


class LogError(CloisterError):
    """The event log is damaged or cannot be written."""

    REASONS: ClassVar[dict[str, str]] = {
        "event_malformed": "an event has a type or a field that is not allowed",
        "event_altered": "an event does not match its hash",
        "log_forked": "two events claim the same place, or heads contradict each other",
        "log_truncated": "the log ends before a head that was signed",
        "log_rolled_back": "the log is older than a head that others hold",
        "log_unwritable": "the log cannot be written, so nothing may happen",
        "log_foreign": "the log was begun by another identity",
        "head_invalid": "a signed head does not verify",
        "head_missing": "no signed head vouches for the log",
        "proof_invalid": "an inclusion or consistency proof does not verify",
    }


class EvidenceError(CloisterError):
    """A bundle of evidence does not hold, or cannot be made."""

    REASONS: ClassVar[dict[str, str]] = {
        "bundle_altered": "a file, signature, proof or record of a bundle is not what was signed",
        "bundle_incomplete": "a bundle lacks a part, a file or an end that it needs",
        "claim_not_reproducible": "a claim of a bundle does not follow from the records in it",
        "key_untrusted": "a bundle is signed with a key that is not among those that are trusted",
        "job_unfinished": "a job has not ended with a model, so there is no evidence of one",
        "bundle_unknown": "a message is about a bundle that is not offered for signing, or not any longer",
        "part_replaced": "a bundle shows another part of this party than the one that it handed over",
    }


class ModelError(CloisterError):
    """The base model or adapter is not the one agreed."""

    REASONS: ClassVar[dict[str, str]] = {
        "tokenizer_unfit": "the tokenizer of the base model lacks what the task needs",
        "model_missing": "the base model is not on this machine",
        "model_mismatch": "the files of a model do not have the agreed digest",
        "model_unsafe": "a model folder needs remote code or holds pickled weights",
        "layer_unsupported": "a trainable tensor is not covered by a private engine",
        "precision_unsupported": "a device cannot take passes in the precision of the plan",
        "unit_split": "rows of one unit of privacy lie in two micro-batches of a step",
        "adapter_invalid": "an adapter cannot be placed on the model",
        "model_fell": "a global model does worse on a site's held-out rows than one before",
        "model_unknown": "a change came of a global model that a site does not have",
        "norm_jumped": "a round changed the global model far more than the rounds before",
        "version_missing": "an earlier global model that was asked for is not kept",
    }


class StateError(CloisterError):
    """The state on disk cannot be read or written."""

    REASONS: ClassVar[dict[str, str]] = {
        "disk_full": "the disk is full",
        "state_unwritable": "a file of the state cannot be written",
        "state_damaged": "a file of the state cannot be read as what it should be",
        "state_locked": "another process works in the same folder",
        "state_missing": "the folder holds no such state",
        "permissions": "a secret file can be read by others",
        "ledger_missing": "a ledger that must be there is not, and is never made anew",
        "ledger_foreign": "a folder and the ledger that it should share do not belong together",
        "ledger_altered": "rows of the ledger are not what the event log says",
        "state_restored": "the folder is a copy, and what happened since it was made was not charged yet",
        "rotation_unfinished": "a change of keys was interrupted and must be finished first",
        "backup_damaged": "a backup is cut, altered, or not one",
        "state_sealed": "the key that opens an encrypted folder is missing or is another one",
    }


class TransportError(CloisterError):
    """Flower or the consortium service cannot be reached or refuses."""

    REASONS: ClassVar[dict[str, str]] = {
        "unreachable": "the other side does not answer",
        "refused": "the other side refuses the connection or the call",
        "bundle_invalid": "the Flower bundle holds something else than the two agreed files",
        "too_large": "a message is larger than the limit",
        "rate_limited": "too many calls in a short time",
        "protocol": "the other side answered something that is not the protocol",
        "clock": "the clocks of the two sides differ too much",
        "proxy_refused": "the HTTP proxy that the environment names is none, or refuses to connect",
    }


UNWRITABLE = frozenset({"disk_full", "state_unwritable", "log_unwritable", "ratchet_unwritable"})
"""Ids that say that this machine cannot write now. The process stops and goes on once it can: no site is
left out and no job is given up for it."""


def areas() -> Iterator[type[CloisterError]]:
    """All error classes, in the order of the tree."""
    yield from CloisterError.__subclasses__()
