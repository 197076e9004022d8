"""What is done from the command line; each command is a file."""
