"""Starting, stopping, probing and adopting instances of modules. No Temporal inside.

```
DeployError
├── LaunchRefused      the launch descriptor cannot be carried out here; correct it
├── NoFreePort         all ports of the range are in use; widen `deploy.port_first`-`deploy.port_last`
├── ExitedEarly        the process ended before it answered; its output's tail is in the message
└── NeverHealthy       it did not answer within `deploy.health_wait`; its output's tail is in the message
```
"""

from deployers.base import (
    Deployer,
    DeployError,
    ExitedEarly,
    Launch,
    LaunchRefused,
    NeverHealthy,
    NoFreePort,
    Running,
)
from deployers.process import ProcessDeployer

__all__ = [
    "DeployError",
    "Deployer",
    "ExitedEarly",
    "Launch",
    "LaunchRefused",
    "NeverHealthy",
    "NoFreePort",
    "ProcessDeployer",
    "Running",
]
