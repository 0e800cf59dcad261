"""Ways to group rows into chunks and nodes, one file each."""
