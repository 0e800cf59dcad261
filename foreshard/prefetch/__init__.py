"""Memory for chunks: manifest, queue, bounded region, fetching and figures."""
