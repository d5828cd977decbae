"""What a site keeps: its folder, ledger, ratchet and records."""
