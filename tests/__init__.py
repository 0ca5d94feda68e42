"""unit: nothing needed; integration: PostgreSQL; acceptance: a real channel to a real server."""
