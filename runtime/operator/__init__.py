"""Each memory as a torch operator: what it does, its schema and derivative, its transforms."""
