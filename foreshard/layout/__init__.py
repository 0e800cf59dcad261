"""Which sample lies in which chunk, shard and node: sizing, assignment, migration and the plan."""
