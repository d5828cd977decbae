"""The verifier: what each check of a bundle finds. Offline, without torch, without trust in who made it."""
