#!/usr/bin/env bash
# A Ray that is started inside a Ray job shows every actor all GPUs (ray 2.60.0).
#
# `ray job submit` runs a command on a cluster. A program that prefers a private Ray, ray.init(address="local"), as tests,
# evaluations and single-node trainers do, may well be that command. No GPU is needed to see what its actors get: Ray
# counts the number that it is told.
# Guess before a look at a job's environment: an actor with num_gpus=1 gets a CUDA_VISIBLE_DEVICES of one number, in the
# job's cluster as in one that the job starts. After it: only in the former.
# Seen: only in the job's cluster. The job's environment has RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES=1, meant for the
# job's own process; a Ray that this process starts inherits it, and leaves CUDA_VISIBLE_DEVICES of all its actors alone.
# ray.get_gpu_ids() still answers 0 and 1, so a log of it looks right while both actors compute on the first GPU.
set -euo pipefail
folder=$(mktemp -d /tmp/find-XXXX)
head=
finish() {
    [ -z "$head" ] || { kill "$head" && wait "$head"; } 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "ray[default]==2.60.0"
ray=$folder/venv/bin/ray
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
unset RAY_ADDRESS CUDA_VISIBLE_DEVICES
(umask 077 && "$folder/venv/bin/python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$folder/token")
free() { "$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
dashboard=$(free)
"$ray" start --head --port=0 --num-cpus=4 --num-gpus=2 --dashboard-port="$dashboard" --temp-dir="$folder/ray" \
    --disable-usage-stats --block >"$folder/head.log" 2>&1 &
head=$!
for _ in $(seq 120); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$dashboard") 2>/dev/null; then break; fi
    sleep 1
done
cat >"$folder/job.py" <<'PYTHON'
import os
import sys

import ray


class Actor:
    def sees(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_gpu_ids()


def two_actors():
    actors = [ray.remote(Actor).options(num_gpus=1, num_cpus=0).remote() for _ in range(2)]
    seen = ray.get([actor.sees.remote() for actor in actors])
    ray.shutdown()
    return sorted(seen, key=lambda one: one[1])


ray.init(log_to_driver=False)
joined = two_actors()
ray.init(address="local", num_cpus=1, num_gpus=2, include_dashboard=False, log_to_driver=False)
own = two_actors()
print("ray", ray.__version__)
print("cluster of the job:", joined)
print("cluster started in it:", own)
same = joined == [("0", [0]), ("1", [1])] and own == [(None, [0]), (None, [1])]
print("FINDING", "AS SEEN" if same else "CHANGED")
PYTHON
"$ray" job submit --address "http://127.0.0.1:$dashboard" -- "$folder/venv/bin/python" "$folder/job.py" >"$folder/job.log" 2>&1 || true
grep -E "^(ray [0-9]|cluster )" "$folder/job.log" || tail -n 20 "$folder/head.log" "$folder/job.log"
grep -q "FINDING AS SEEN" "$folder/job.log"
