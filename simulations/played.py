"""A finished job all of whose parties are here, keys and logs, and the bundle that they make of it together.

Whoever plays every party can do what in a federation takes each of them: make everybody's part and sign for
everybody. The parts, the evidence and the check are those of a federation; the mark comes from the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cloister.privacy import canonical
from cloister.privacy.canonical import Json
from cloister.privacy.consent import DECISION_CONTEXT, PLAN_CONTEXT, approval
from cloister.privacy.errors import EvidenceError
from cloister.privacy.evidence.bundle import Bundle, Contents
from cloister.privacy.evidence.checks.findings import Result
from cloister.privacy.evidence.checks.run import verify
from cloister.privacy.evidence.derive import Said, composed, derived
from cloister.privacy.evidence.kinds import Audience
from cloister.privacy.evidence.log import EventLog
from cloister.privacy.evidence.part import Part
from cloister.privacy.evidence.rulings import Shows
from cloister.privacy.identity import PrivateIdentity, PublicIdentity
from cloister.privacy.plan import Plan
from cloister.privacy.wire.signed import Signed


@dataclass
class Played:
    """A finished job of a lead and its sites.

    Attributes:
        plan: of the job.
        lead: the lead's keys.
        sites: name -> the site's keys.
        logs: name of a party -> its log.
        policies: digest -> bytes of the sites' policies and of all requests that were decided under them.
    """

    plan: Plan
    lead: PrivateIdentity
    sites: dict[str, PrivateIdentity]
    logs: dict[str, EventLog]
    policies: dict[str, bytes] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[PublicIdentity, ...]:
        """Everybody's public keys, the lead first."""
        return (self.lead.public, *(site.public for site in self.sites.values()))

    @property
    def trust(self) -> dict[str, str]:
        """The keys as somebody knows them who asked every party."""
        return {member.name: member.digest() for member in self.keys}

    def identity(self, name: str) -> PrivateIdentity:
        """The keys of a party."""
        return self.lead if name == self.lead.public.name else self.sites[name]

    def parts(self) -> tuple[Part, ...]:
        """What every party says."""
        return tuple(self.part(name) for name in self.logs)

    def part(self, name: str, shows: Shows = "whole") -> Part:
        """What one party says."""
        return Part.make(self.logs[name], self.identity(name), self.plan, self.policies, shows=shows)

    def approvals(self) -> dict[str, Signed]:
        """The plan under the lead's keys, and every site's decision under its own."""
        said = {self.lead.public.name: Signed.make(self.plan.to_bytes(), self.lead, PLAN_CONTEXT)}
        for name, site in self.sites.items():
            said[name] = Signed.make(approval(self.plan, name).to_bytes(), site, DECISION_CONTEXT)
        return said

    def told(
        self, said: Said, parts: Sequence[Part] | None = None, audience: Audience = "auditor"
    ) -> Contents:
        """What a bundle is made of.

        Args:
            said: what no record decides.
            parts: of all parties; None for those that they make now.
            audience: who the bundle is for.
        """
        found = self.parts() if parts is None else tuple(parts)
        logs = {part.writer: part.events for part in found}
        heads = {part.writer: part.newest for part in found}
        evidence = composed(derived(self.plan, self.keys, logs, heads), said, audience)
        return Contents(self.plan, self.keys, found, self.approvals(), evidence, audience)

    def bundle(self, said: Said) -> Bundle:
        """The bundle, signed by everybody, after the check that anybody can repeat."""
        return checked(self.told(said).bundle(self.lead, *self.sites.values()), self.keys)


def checked(bundle: Bundle, keys: Iterable[PublicIdentity]) -> Bundle:
    """A bundle that was made by whoever plays all parties, once it verifies.

    Raises:
        EvidenceError: ``bundle_altered``, it does not: a bug, which must not be hidden.
    """
    verdict = verify(bundle, {member.name: member.digest() for member in keys})
    if verdict.result is not Result.VERIFIED:
        raise EvidenceError(
            "bundle_altered", f"The bundle of this run does not verify: {verdict.findings[0].line()}"
        )
    return bundle


def trust_file(keys: Iterable[PublicIdentity]) -> bytes:
    """Everybody's keys in the form of ``cloister site peers --json``."""
    members: list[Json] = [{"name": m.name, "role": m.role, "identity": m.digest()} for m in keys]
    value: Mapping[str, Json] = {"members": members}
    return canonical.encode(dict(value)) + b"\n"
