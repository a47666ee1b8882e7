"""The clauses of a memory, one file each: what each may say and what it means."""
