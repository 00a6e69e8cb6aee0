"""The one settings tree: file and environment, the same keys for the embedded stack and for production.

Read once, in a composition root (`gateway.main`, `worker.main`, `uplift_cli.main`); constructors get what they need.
"""

from uplift_settings.load import Origin, SettingsError, explain, load
from uplift_settings.secrets import SecretError, read_secret
from uplift_settings.tree import Settings

__all__ = ["Origin", "SecretError", "Settings", "SettingsError", "explain", "load", "read_secret"]
