"""The machine: load, launch, judge and train generated code.  Needs torch."""
