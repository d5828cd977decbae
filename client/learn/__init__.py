"""What a site learns: model, adapter, training, evaluation."""
