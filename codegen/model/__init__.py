"""Stage 3: a memory as tensor nodes, and what the layer around it must compute for it."""
