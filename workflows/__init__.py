"""Temporal workflows: `tenant_job`, `group_change`, `module_version`. They know activities by signature only."""
