"""The HTTP service and its page: `vidsift serve`."""
