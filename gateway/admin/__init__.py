"""The admin API under `/_/`: one module a group of routes, all listed in `gateway.admin.routes`."""
