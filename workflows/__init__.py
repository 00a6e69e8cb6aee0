"""Temporal workflows: `tenant_job`, `group_change`, `module_version`, `resolve_job`. They know activities by signature only."""
