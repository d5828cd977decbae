"""Plans of simulations under Flower's own engine over Ray, for machines that share a folder."""
