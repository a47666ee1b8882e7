"""The folder of a run: who may write to it, and whether what lies there is whole and fits."""
