"""The command `ira`: one verb, one function; a file holds the verbs of one kind of work."""
