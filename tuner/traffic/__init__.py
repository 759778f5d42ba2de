"""What is sent to a server, and by which load generator."""
