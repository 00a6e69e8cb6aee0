"""Keeps the board up to date."""

import asyncio

from gateway_client import GatewayError
from uplift_cli.demo.board import Board, TenantState
from uplift_cli.demo.platform import Platform

_LOOK = 0.5


async def watch(board: Board, platform: Platform) -> None:
    """Look at tenants and held requests twice a second, until cancelled."""
    loop = asyncio.get_running_loop()
    sent = {name: state.load.books.writes_sent for name, state in board.tenants.items()}
    then = loop.time()
    while True:
        await asyncio.sleep(_LOOK)
        try:
            parked = await platform.parked()
            for name, state in board.tenants.items():
                state.parked = parked.get(name, 0)
                state.most_parked = max(state.most_parked, state.parked)
                if not state.doing:
                    state.versions = await platform.versions(name)
        except GatewayError:
            pass  # it is being killed; the step that does so looks after it
        now = loop.time()
        for name, state in board.tenants.items():
            _measure(state, sent[name], now - then)
            sent[name] = state.load.books.writes_sent
        then = now


def _measure(state: TenantState, sent: int, seconds: float) -> None:
    rate = (state.load.books.writes_sent - sent) / seconds
    state.rate = 0.6 * state.rate + 0.4 * rate if state.rate else rate
