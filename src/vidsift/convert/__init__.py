"""Published checkpoints and feature stores to ours, and back."""
