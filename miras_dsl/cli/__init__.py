"""The command line: `miras check`, `explain`, `compile`, `train`, `new`."""
