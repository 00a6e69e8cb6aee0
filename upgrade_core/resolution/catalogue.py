"""The descriptors that may be chosen, found by product and by interface; and which of the registered ones those are."""

from collections.abc import Iterator, Mapping

from upgrade_core.descriptors import ModuleDescriptor, Requirement
from upgrade_core.versions import ModuleVersion, interface_satisfies


class Catalogue(Mapping[str, ModuleDescriptor]):
    """Descriptors by id, with indexes that are made when they are asked for and hold as long as the mapping does not change.

    Args:
        modules: All of them by id.
    """

    def __init__(self, modules: Mapping[str, ModuleDescriptor]) -> None:
        self._modules = modules
        self._by_product: dict[str, list[ModuleDescriptor]] | None = None
        self._by_interface: dict[str, dict[str, list[ModuleDescriptor]]] | None = None
        self._sorted: dict[str, tuple[ModuleDescriptor, ...]] = {}
        self._answers: dict[Requirement, tuple[ModuleDescriptor, ...]] = {}

    def __getitem__(self, module: str) -> ModuleDescriptor:
        return self._modules[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def versions(self, product: str) -> tuple[ModuleDescriptor, ...]:
        """The versions of a product, newest first; pre-releases and npm snapshots take part."""
        if product not in self._sorted:
            if self._by_product is None:
                self._by_product = {}
                for module in self._modules.values():
                    self._by_product.setdefault(module.product, []).append(module)
            found = self._by_product.get(product, [])
            self._sorted[product] = tuple(sorted(found, key=lambda module: module.module_id.order_key, reverse=True))
        return self._sorted[product]

    def newest(self, product: str) -> ModuleDescriptor | None:
        """The highest version of a product."""
        return next(iter(self.versions(product)), None)

    def providing(self, need: Requirement) -> tuple[ModuleDescriptor, ...]:
        """The newest compatible provider of each product, by product; without products that a compatible provider replaces."""
        if need not in self._answers:
            newest: dict[str, ModuleDescriptor] = {}
            replaced: set[str] = set()
            for product, modules in self._providers(need.id).items():
                fitting = [module for module in modules if _provides(module, need)]
                if fitting:
                    newest[product] = max(fitting, key=lambda module: module.module_id.order_key)
                    replaced.update(name for module in fitting for name in module.replaces)
            self._answers[need] = tuple(newest[product] for product in sorted(newest) if product not in replaced)
        return self._answers[need]

    def _providers(self, interface: str) -> Mapping[str, list[ModuleDescriptor]]:
        if self._by_interface is None:
            self._by_interface = {}
            for module in self._modules.values():
                for provided in module.provides:
                    if not provided.is_system:
                        self._by_interface.setdefault(provided.id, {}).setdefault(module.product, []).append(module)
        return self._by_interface.get(interface, {})


def visible(
    modules: Mapping[str, ModuleDescriptor],
    *,
    pre_release: str = "true",
    npm_snapshot: str = "true",
    enabled: tuple[str, ...] = (),
) -> Mapping[str, ModuleDescriptor]:
    """The descriptors that pass Okapi's filters, and those of what is enabled anyway.

    Okapi does not see an enabled snapshot under `preRelease=false`, and enables a release of the same product beside it.

    Args:
        modules: All registered descriptors by id.
        pre_release: `true`, `false` or `only`.
        npm_snapshot: As `pre_release`.
        enabled: Ids of the tenant's modules.
    """
    if pre_release == npm_snapshot == "true":
        return modules
    kept = frozenset(enabled)
    return {
        text: module
        for text, module in modules.items()
        if text in kept or passes(module.module_id.version, pre_release=pre_release, npm_snapshot=npm_snapshot)
    }


def passes(version: ModuleVersion, *, pre_release: str, npm_snapshot: str) -> bool:
    """Okapi's filter: a kind of snapshot passes unless its parameter says `false`; releases pass unless one says `only`."""
    if version.is_pre_release:
        return pre_release != "false"
    if version.is_npm_snapshot:
        return npm_snapshot != "false"
    return "only" not in (pre_release, npm_snapshot)


def _provides(module: ModuleDescriptor, need: Requirement) -> bool:
    interface = module.interface(need.id)
    return interface is not None and interface_satisfies(interface.version, need.version)
