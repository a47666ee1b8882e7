"""Operations on the rows of a chunk, opened into blocks of 16 rows."""
