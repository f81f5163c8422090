"""What one peer runs in its memory: verified releases, their sessions and functions."""
