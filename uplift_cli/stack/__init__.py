"""The embedded stack: Postgres, Temporal, gateway and worker as child processes of one supervisor, in one folder."""
