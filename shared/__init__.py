"""What both services stand on: serving, errors and their status codes, configuration, logs, time, the schema."""
