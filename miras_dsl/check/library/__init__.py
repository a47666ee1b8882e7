"""Library definitions (biases, networks, retention gates, algorithms) written out in place."""
