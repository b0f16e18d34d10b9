"""The daemons: ``recorder`` writes the log, ``web`` (a later part) serves it; config.py holds their settings."""
