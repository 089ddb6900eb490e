export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(printf 'b%.0s' $(seq 64)) RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 STSSL_CACHE=/tmp/clx/cache
RAY=/work/main/.venv/bin/ray; PY=/work/main/.venv/bin/python
