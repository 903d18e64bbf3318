"""The command `shelflist`: parse, call the collection, print. Command modules are loaded when they are run."""
