"""Formats on the wire: the sealed envelope and the consortium service."""
