"""The site: sees records, trusts nobody."""
