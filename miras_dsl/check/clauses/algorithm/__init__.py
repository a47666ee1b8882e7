"""The `algorithm` clause: which rules learn, and at which weights and how often."""
