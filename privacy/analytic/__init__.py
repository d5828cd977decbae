"""The analytic round: a model from one sum of products, without gradients; numpy only."""
