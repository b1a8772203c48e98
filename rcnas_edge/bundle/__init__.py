"""The folder that ships: what is written into it, what boards write about it, and what that says."""
