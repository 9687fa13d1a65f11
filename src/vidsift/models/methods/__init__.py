"""One file per retrieval method; each registers its classes with `vidsift.models.registry`."""
