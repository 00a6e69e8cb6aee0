"""Which ports a folder's stack gets: the command line's, else the configured ones, else those it had, else the defaults."""

import socket
from collections.abc import Mapping
from typing import Any

import pytest

from uplift_cli.stack.errors import PortTaken
from uplift_cli.stack.layout import Ports, choose_ports
from uplift_cli.stack.state import StackRecord
from uplift_settings import Settings

Said = list[str]


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def free() -> int:
    return free_port()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def chosen(
    said: Said,
    *,
    kept: Mapping[str, int] | None = None,
    port: int | None = None,
    modules: tuple[int, int] | None = None,
    **settings: Any,
) -> Ports:
    return choose_ports(
        Settings.model_validate(settings), port=port, modules=modules, kept=StackRecord(ports=kept or {}), say=said.append
    )


def test_what_the_folder_had_wins_over_the_default(said: Said, free: int) -> None:
    before = {"gateway": free, "modules_first": 1200, "modules_last": 1209}
    ports = chosen(said, kept=before)
    assert (ports.gateway, ports.modules, said) == (free, (1200, 1209), [])


def test_what_is_configured_wins_over_what_the_folder_had_and_the_move_is_said(said: Said, free: int) -> None:
    before = {"gateway": 1100, "modules_first": 1200, "modules_last": 1209}
    ports = chosen(said, kept=before, gateway={"port": free}, deploy={"port_first": 1300, "port_last": 1301})
    assert (ports.gateway, ports.modules) == (free, (1300, 1301))
    assert said == [f"the gateway moves from port 1100 to {free}: whoever remembers the old address needs the new one"]


def test_the_command_line_wins_over_what_is_configured(said: Said, free: int) -> None:
    ports = chosen(said, port=free, modules=(1200, 1200), gateway={"port": 1100}, deploy={"port_first": 1300})
    assert (ports.gateway, ports.modules) == (free, (1200, 1200))


def test_zero_is_a_free_port_that_is_kept(said: Said) -> None:
    first = chosen(said, port=0)
    assert chosen(said, port=0, kept=first.kept()) == first
    assert chosen(said, kept=first.kept()) == first


def test_a_kept_port_makes_room_for_one_that_was_asked_for(said: Said, free: int) -> None:
    first = chosen(said, port=free)
    second = chosen(said, port=free, modules=(first.postgres, first.postgres), kept=first.kept())
    assert second.postgres != first.postgres
    assert (second.temporal, second.ui) == (first.temporal, first.ui)


def test_instances_make_room_for_a_gateway_that_moves_into_their_ports(said: Said, free: int) -> None:
    before = {"gateway": 1100, "modules_first": free - 1, "modules_last": free + 1}
    assert chosen(said, port=free, kept=before).modules[0] == free + 1
    assert "the modules' instances move from ports" in said[1]


@pytest.mark.parametrize("settings", [{}, {"deploy": {"port_first": 1100, "port_last": 1200}}])
def test_module_ports_with_the_gateways_port_among_them_are_refused(settings: dict[str, Any], said: Said) -> None:
    with pytest.raises(PortTaken, match=r"the modules' ports 1100-1200 \(.*\) contain the gateway's port 1150"):
        chosen(said, port=1150, modules=None if settings else (1100, 1200), **settings)


def test_a_configured_range_that_is_none_is_refused(said: Said) -> None:
    with pytest.raises(PortTaken, match=r"1300-1200 is no range of ports \(deploy\.port_first, deploy\.port_last\)"):
        chosen(said, port=1100, deploy={"port_first": 1300, "port_last": 1200})


def test_the_last_port_leaves_none_for_instances(said: Said) -> None:
    with pytest.raises(
        PortTaken, match="no port is left for instances above the gateway's 65535: choose some with --module-ports"
    ):
        chosen(said, port=65_535)


def test_few_ports_above_the_gateway_are_said(said: Said) -> None:
    port = next(port for port in range(65_500, 65_535) if is_free(port))
    assert chosen(said, port=port).modules == (port + 1, 65_535)
    assert said == [f"only {65_535 - port} ports are left for instances above the gateway's; --module-ports A-B sets others"]


def test_one_port_for_two_parts_is_refused(said: Said, free: int) -> None:
    with pytest.raises(PortTaken, match=f"port {free} is wanted twice"):
        chosen(said, port=free, stack={"ui_port": free})


def test_a_port_that_is_taken_is_named_with_who_has_it(said: Said) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(PortTaken, match=r"is taken by .* \(pid \d+\): end that process, or set another port \(--port\)"),
    ):
        chosen(said, port=other.getsockname()[1])


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
