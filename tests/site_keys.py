"""A site whose keys follow from its name."""

import hashlib
from pathlib import Path

from cloister.client.site.folder import SiteFolder
from cloister.privacy import durable


def keyed_site(path: Path) -> SiteFolder:
    """A new site whose data keys are fixed."""
    site = SiteFolder.create(path, path.name)
    fix_keys(site)
    return site


def fix_keys(site: SiteFolder) -> None:
    """Fixes a site's data keys, so that what is held out of few rows, if anything, is no chance."""
    folder = site.path / "datasets"
    durable.private_folder(folder)
    for name in ("held-out.key", "persons.key"):
        site.vault.write(folder / name, hashlib.sha256(f"{site.path.name} {name}".encode()).digest())
