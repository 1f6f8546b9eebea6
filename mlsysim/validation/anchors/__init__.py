"""What an anchor is: its schema, how it is read, solved and compared."""
