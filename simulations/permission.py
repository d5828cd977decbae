"""The policies of a demo's sites: what every site starts with, opened as far as the demo's terms need.

The folders are thrown away and all data is one person's, so nobody else's policy is overruled by this.
"""

from __future__ import annotations

import json

from cloister.client.site.folder import SiteFolder
from cloister.client.site.policies import Policies
from cloister.privacy.plan import Plan
from cloister.privacy.policy.terms import EVERY, Policy


def permit(site: SiteFolder, plan: Plan) -> None:
    """Lets the site's policy allow a plan's privacy, size and aggregation."""
    policies = Policies(site)
    value = policies.current().model_dump(mode="json")
    privacy, training, every = value["privacy"], value["training"], value["datasets"][EVERY]
    privacy["modes"] = sorted({*privacy["modes"], plan.privacy.mode})
    for name in ("epsilon", "delta", "bound"):
        privacy[name] = max(privacy[name], getattr(plan.privacy, name))
    if plan.privacy.mode != "off":
        privacy["noise_multiplier"] = min(privacy["noise_multiplier"], plan.privacy.noise_multiplier)
    every["epsilon"] = max(every["epsilon"], plan.privacy.epsilon)
    every["rows_per_person"] = max(every["rows_per_person"], plan.most_rows)
    jobs = sum(1 for _ in (site.path / "jobs").glob("*/plan.json"))
    every["jobs_per_day"] = max(every["jobs_per_day"], jobs)
    for name in ("rounds", "steps", "head_rate", "adapter_rate"):
        training[name] = max(training[name], getattr(plan.training, name))
    value["models"]["parameters"] = max(value["models"]["parameters"], plan.adapter.parameters)
    how = value["aggregation"]
    how["secure"] = how["secure"] and plan.aggregation.secure
    how["minimum_sites"] = min(how["minimum_sites"], plan.aggregation.minimum_sites)
    if Policy.of(value) != policies.current():
        policies.put(json.dumps(value, indent=2).encode())
