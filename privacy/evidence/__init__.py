"""The event log of a party: events, hash chain, Merkle tree, signed heads."""
