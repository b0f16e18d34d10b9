"""The command line ``steno``: main.py is a table of commands, one file a command or family."""
