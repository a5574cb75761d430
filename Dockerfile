# One image for gateway, builder and runtime: docker-compose.yml says which module each runs.
# The docker program and its plugin buildx. Debian 12's own is too old for engines from 29 on.
FROM docker:28-cli AS client

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git util-linux \
    && rm -rf /var/lib/apt/lists/*
COPY --from=client /usr/local/bin/docker /usr/local/bin/docker
COPY --from=client /usr/local/libexec/docker/cli-plugins /usr/local/libexec/docker/cli-plugins
WORKDIR /opt/slipway
# What we stand on first, without our own code: a change of ours does not install it anew.
COPY pyproject.toml constraints.txt ./
RUN touch README.md && pip install --no-cache-dir --root-user-action=ignore -c constraints.txt .
COPY . .
# Our code is found from anywhere, and what lies in a working directory is not.
ENV PYTHONPATH=/opt/slipway PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
RUN python -m compileall -q core engine forges gateway builder runtime supervisor cli
CMD ["slipway", "--help"]
