"""What an install or upgrade request means for a tenant: which modules, from which version, in which order (requirement E8).

This answers *what*; `upgrade_core.plan` answers *in which steps*. The rules and texts are Okapi's, since its clients match on
them; ties are broken by id. `docs/reference/differences-from-okapi.md` lists where the answers differ, and why.
"""

from upgrade_core.resolution.catalogue import Catalogue, passes, visible
from upgrade_core.resolution.request import Decision, Verb, Wanted
from upgrade_core.resolution.resolver import resolve, upgrades

__all__ = ["Catalogue", "Decision", "Verb", "Wanted", "passes", "resolve", "upgrades", "visible"]
