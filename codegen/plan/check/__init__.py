"""Whether a plan can be carried out, what it costs, and what it computes."""
