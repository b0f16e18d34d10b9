"""The write side: owns terminals and children, and appends what they do. Imports ``eventlog`` only.

    child's bytes -> pump.py (one thread reads all) -> lines.py (cuts) -> recording.py (orders, encodes) -> the log

process.py starts a child on a PTY (pty.py) or on pipes, session.py runs one from start to end, lock.py says who is
alive. It records the same with everything else of steno switched off, crashed or upgraded.
"""
