"""The read side: folds of the log into rows that can be queried; nothing stored here that cannot be built again.

The folds themselves come with the issue on extraction rules. They import ``eventlog`` and nothing else of ours.
"""
