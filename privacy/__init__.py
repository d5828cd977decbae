"""The contract: everything both sides must agree on. No Flower, no sockets, no clock."""
