"""The schema and the ways to it: tables, migrations, connections, device keys, mappings, the embedded server."""
