"""The nodes, one file per step of the artist's work: a schema and a thin execute each."""
