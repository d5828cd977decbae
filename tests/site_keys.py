"""A site whose keys follow from its name."""

import hashlib
from pathlib import Path

from cloister.client.site.folder import SiteFolder
from cloister.privacy import durable


def keyed_site(path: Path) -> SiteFolder:
    """A new site whose data keys are fixed, so that what is held out, and a test, does not hang on chance."""
    site = SiteFolder.create(path, path.name)
    durable.private_folder(path / "datasets")
    for name in ("held-out.key", "persons.key"):
        durable.write(path / "datasets" / name, hashlib.sha256(f"{path.name} {name}".encode()).digest())
    return site
