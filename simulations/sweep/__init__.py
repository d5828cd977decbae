"""Many simulations as one table: every cell of a product of epsilon, sites, skew, method and seed."""
