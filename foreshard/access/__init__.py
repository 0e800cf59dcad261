"""What training jobs read: log schema, writer, markers, ingestion and history."""
