"""The modules of one tenant while they change: who provides an interface, who needs it, and what does not fit (Okapi's rules).

Only proxy interfaces count, and a requirement counts by its interface: so a change is looked at where it touches interfaces, not
by looking at the whole platform again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from upgrade_core.descriptors import ModuleDescriptor, Requirement
from upgrade_core.versions import interface_satisfies


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What does not fit about one interface: several modules provide it, or a module's need is not met.

    Attributes:
        interface: Its id.
        module: Id of the module whose need is not met; empty: several modules provide the interface.
        need: The need; None as above.
        providers: Ids of the modules that provide the interface, sorted.
        have: The version that the first of them provides; empty: nobody does.
    """

    interface: str
    module: str = ""
    need: Requirement | None = None
    providers: tuple[str, ...] = ()
    have: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about, whoever provides the interface at the moment."""
        return (self.interface, self.module, "" if self.need is None else self.need.version)

    @property
    def text(self) -> str:
        """The reason in Okapi's words."""
        if self.need is None:
            return f"Multiple modules {', '.join(self.providers)} provide interface {self.interface}"
        if not self.providers:
            return f"interface {self.interface} required by module {self.module} not found"
        return (
            f"Incompatible version for module {self.module} interface {self.interface}."
            f" Need {self.need.version}. Have {self.have}/{self.providers[0]}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Face:
    """What of a module others see: interface id to version, and interface id to (need, whether it is optional)."""

    provides: dict[str, str]
    uses: dict[str, tuple[tuple[Requirement, bool], ...]]

    @property
    def interfaces(self) -> Iterable[str]:
        return dict.fromkeys((*self.provides, *self.uses))


class Enabled:
    """The enabled modules, one of each product. Changes answer which interfaces they touched, in a defined order."""

    def __init__(self, modules: Iterable[ModuleDescriptor] = ()) -> None:
        self._modules: dict[str, ModuleDescriptor] = {}
        self._providers: dict[str, dict[str, tuple[str, str]]] = {}
        """Interface id to product to (module id, version)."""
        self._users: dict[str, dict[str, str]] = {}
        """Interface id to product to module id."""
        self._faces: dict[str, _Face] = {}
        for module in modules:
            self.put(module)

    def get(self, product: str) -> ModuleDescriptor | None:
        """The enabled version of a product."""
        return self._modules.get(product)

    def modules(self) -> dict[str, str]:
        """Product to module id."""
        return {product: module.id for product, module in self._modules.items()}

    def descriptors(self) -> tuple[ModuleDescriptor, ...]:
        """The enabled modules."""
        return tuple(self._modules.values())

    def put(self, module: ModuleDescriptor) -> tuple[str, ...]:
        """Enable a module in place of its product's version; returns the ids of the interfaces that this touches."""
        touched = dict.fromkeys(self.drop(module.product))
        face = self._face(module)
        for interface, version in face.provides.items():
            self._providers.setdefault(interface, {})[module.product] = (module.id, version)
        for interface in face.uses:
            self._users.setdefault(interface, {})[module.product] = module.id
        self._modules[module.product] = module
        return tuple(touched | dict.fromkeys(face.interfaces))

    def drop(self, product: str) -> tuple[str, ...]:
        """Disable a product; returns the ids of the interfaces that this touches."""
        module = self._modules.pop(product, None)
        if module is None:
            return ()
        face = self._face(module)
        for interface in face.provides:
            del self._providers[interface][product]
        for interface in face.uses:
            del self._users[interface][product]
        return tuple(face.interfaces)

    def interfaces(self) -> list[str]:
        """Ids of all interfaces that are provided or needed, sorted."""
        named = {interface for interface, found in self._providers.items() if found}
        return sorted(named | {interface for interface, found in self._users.items() if found})

    def offers(self, interface: str) -> list[tuple[str, str]]:
        """Products that provide an interface, and the versions of it."""
        return [(product, version) for product, (_, version) in sorted(self._providers.get(interface, {}).items())]

    def troubles(self, interface: str) -> tuple[Trouble, ...]:
        """What does not fit about an interface: several providers first, then needs by module id.

        A required interface must be there, in a compatible version; an optional one must be compatible if it is there.
        """
        offers = sorted(self._providers.get(interface, {}).values())
        providers = tuple(module for module, _ in offers)
        have = offers[0][1] if offers else ""
        found = [Trouble(interface=interface, providers=providers, have=have)] if len(offers) > 1 else []
        users = self._users.get(interface, {})
        for product, module in sorted(users.items(), key=lambda item: item[1]) if len(users) > 1 else users.items():
            for need, optional in self._faces[self._modules[product].id].uses[interface]:
                if (not offers and optional) or (offers and interface_satisfies(have, need.version)):
                    continue
                found.append(Trouble(interface=interface, module=module, need=need, providers=providers, have=have))
        return tuple(found)

    def all_troubles(self) -> list[Trouble]:
        """What does not fit, in the order of the interfaces."""
        return [trouble for interface in self.interfaces() for trouble in self.troubles(interface)]

    def unmet(self, module: ModuleDescriptor) -> Iterator[Requirement]:
        """Requirements that would not be met if the module took the place of its product's version."""
        own = self._face(module).provides
        for need in module.requires:
            if need.id in own and interface_satisfies(own[need.id], need.version):
                continue
            if not any(self._meeting(need, without=module.product)):
                yield need

    def relying_on(self, product: str) -> Iterator[tuple[str, str]]:
        """Interface ids and products whose requirement of it only this product meets."""
        module = self._modules.get(product)
        if module is None:
            return
        for interface, version in self._face(module).provides.items():
            for user in sorted(self._users.get(interface, {})):
                for need, optional in self._faces[self._modules[user].id].uses[interface]:
                    if optional or user == product or not interface_satisfies(version, need.version):
                        continue
                    if not any(self._meeting(need, without=product)):
                        yield interface, user

    def _meeting(self, need: Requirement, *, without: str) -> Iterator[str]:
        for product, (module, version) in self._providers.get(need.id, {}).items():
            if product != without and interface_satisfies(version, need.version):
                yield module

    def _face(self, module: ModuleDescriptor) -> _Face:
        face = self._faces.get(module.id)
        if face is None:
            uses: dict[str, tuple[tuple[Requirement, bool], ...]] = {}
            for needs, optional in ((module.requires, False), (module.optional, True)):
                for need in needs:
                    uses[need.id] = (*uses.get(need.id, ()), (need, optional))
            provides = {interface.id: interface.version for interface in module.provides if not interface.is_system}
            face = self._faces[module.id] = _Face(provides=provides, uses=uses)
        return face


def face_of(module: ModuleDescriptor) -> tuple[frozenset[str], frozenset[str]]:
    """Ids of the proxy interfaces that a module provides, and of those that it requires or has as optional ones."""
    provides = frozenset(interface.id for interface in module.provides if not interface.is_system)
    return provides, frozenset(need.id for need in (*module.requires, *module.optional))
