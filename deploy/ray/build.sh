#!/bin/sh
# Builds an index on this machine and others. The arguments are those of `saeserve-server index build`.
#
# Before, on this machine, the head:    ray start --head --port 6379
# and on each of the others:            ray start --address HEAD:6379
# In the environment of each, and of this script: RAY_AUTH_MODE=token, with the token that `ray get-auth-token --generate`
# left in the home folder of one of them copied to all (without it whoever reaches a port runs what he likes), and
# RAY_USAGE_STATS_ENABLED=0, so that nothing is reported to Ray's makers.
#
#   HEAD=10.0.0.1:6379 build.sh /shared/index /shared/texts --config /shared/server.toml --threads 8
#
# With --resume it goes on with what was begun.
set -eu
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
exec saeserve-server index build --engine ray --ray-address "${HEAD:-auto}" "$@"
