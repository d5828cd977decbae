"""The policy that a new site starts with, with comments for whoever changes it."""

from __future__ import annotations

from datetime import date, timedelta

VALID_DAYS = 365
_TEXT = """\
# What this site allows. Nothing else is done here, whatever a plan says.
#
# Change it and keep it with `cloister site policy set FILE`; `cloister site policy explain` reads it to
# you, `diff FILE` says what a new one would loosen. Every key must stand here, and an unknown key refuses.
# Dates and hours are UTC. `any` allows every value of a list. docs/policy.md has one line on each key.
version: 1

# Outside these days everything is refused: somebody looks at the policy once a year.
valid:
  begins: {begins}
  ends: {ends}

# Whose plans are looked at: names of consortia, digests of leads' keys.
lead:
  consortia: any
  identities: any

# Whose word counts for keys of other parties that nobody compared here: digests of authorities, from
# `cloister authority show`. Without any, each key must be confirmed: `cloister site peers confirm`.
roster:
  authorities: []

# "*" is for every dataset without a block of its own. Without "*", only those with a block may be used.
datasets:
  "*":
    purposes: any          # a list of the exact words of plans' purposes
    epsilon: 8             # of one job; `cloister site data` sets the budget of all jobs together
    jobs_per_day: 20
    rows_per_person: 64
    min_rows: 8            # low ends of the bands that the lead is told
    min_persons: 8
    documents: []          # - {{digest: "sha256:…", form: ethics-approval, until: 2027-06-30}}

privacy:
  modes: [joint, local]    # `off` is not among them: every plan must be private
  units: [person, record]  # take `record` out where one person has several rows
  epsilon: 8
  delta: 0.00001
  noise_multiplier: 0.3
  bound: 10

aggregation:
  secure: true             # the lead opens nothing but sums; needs three sites or more
  minimum_sites: 2
  threshold: 2
  colluding: 1

models:
  base: any                # digests of base models
  parameters: 20000000

code:
  digests: any             # digests of installed releases; a plan names them

training:
  rounds: 1000
  steps: 1000
  rate: 1
  head_rate: 10
  adapter_rate: 10

# Who must agree. Roles: administrator, steward, validator. They are claimed by whoever can run commands in
# this folder, unless `signed` is true: see `cloister site people`.
approval:
  automatic: 0             # plans with at most this epsilon need nobody
  people: 1
  roles: [administrator, steward, validator]
  separate: true           # who proposes does not approve
  signed: false
  hours: 720               # after that, a plan that still waits is refused

time:
  hours: any               # [7-19] or [20-24, 0-6]
  days: any                # [mon, tue, wed, thu, fri]
  duration: 2160           # hours that a job may go on after its approval

# What must have become of names, numbers and addresses in the records: ignore, warn, mask or refuse.
identifiers:
  action: ignore

# A global model that does this many points worse on held-out rows than one before: ignore, warn or refuse.
held_out:
  points: 10
  action: warn
"""


def template(today: date) -> str:
    """The YAML of the policy that a site starts with; it holds for a year."""
    return _TEXT.format(begins=today.isoformat(), ends=(today + timedelta(days=VALID_DAYS)).isoformat())
