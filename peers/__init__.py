"""The running peer: roles, transports, discovery, agent loop, and the public client."""
