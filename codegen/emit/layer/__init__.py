"""The nn.Module classes around a memory: projections, gates, first states."""
