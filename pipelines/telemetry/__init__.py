"""What a command tells those who do not watch it: lines for programs, metrics, lineage, a call if it goes wrong."""
