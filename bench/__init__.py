"""The benchmark behind docs/figures.md, and the servers and programs that it needs."""
