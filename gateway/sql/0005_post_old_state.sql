-- Whether the last gateway stopped with nothing in flight: replicas tell that by their rows in `nodes` and `ghosts`.

drop table if exists gateway_state;
