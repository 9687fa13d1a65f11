"""The errors that vidsift raises on purpose; each message names the value at fault and the way out."""


class VidsiftError(Exception):
    """Base of every error that a user can cause and mend."""


class ModelNotFoundError(VidsiftError):
    """A model name is neither bundled, nor a folder, nor cached, nor reachable on the hub."""


class ModelFormatError(VidsiftError):
    """A model folder exists but its files cannot be loaded as they are."""


class DeviceError(VidsiftError):
    """The device that a model was asked to run on is not there."""


class ModelMismatchError(VidsiftError):
    """An index was built with another model than the one at hand."""


class IndexNotFoundError(VidsiftError):
    """No index lies at the given path."""


class IndexStateError(VidsiftError):
    """The index exists but cannot be used as asked (damaged, locked, of a newer format)."""


class QueryError(VidsiftError):
    """A query cannot be searched for: it is empty, or its vector or a setting has no meaning."""


class SourceError(VidsiftError):
    """A path to index is missing, unreadable, or empty where videos are known to have been."""


class ShardsError(VidsiftError):
    """The shards of an index do not answer in time; they are restarted by themselves."""


class EngineError(VidsiftError):
    """The engine that spreads work is missing, cannot be reached, or its machines lack something."""


class ServiceError(VidsiftError):
    """The HTTP service cannot be started as asked."""


class RecipeError(VidsiftError):
    """A recipe cannot be read or names something unknown."""


class TrainingError(VidsiftError):
    """A run cannot go on (its loss is not finite, say)."""


class DataError(VidsiftError):
    """An annotation or data file cannot be used; the message names file and line."""


class ConversionError(VidsiftError):
    """A published checkpoint or feature store is not what it was said to be; the message names the key."""
