# One image for gateway, builder and runtime: docker-compose.yml says which module each runs.
FROM python:3.11-slim-bookworm AS client
# Debian's docker program alone, which has BuildKit in it: its package would bring a whole engine.
RUN apt-get update \
    && cd /tmp \
    && apt-get download docker.io \
    && dpkg-deb --extract docker.io_*.deb /client

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git util-linux \
    && rm -rf /var/lib/apt/lists/*
COPY --from=client /client/usr/bin/docker /usr/local/bin/docker
WORKDIR /opt/slipway
# What we stand on first, without our own code: a change of ours does not install it anew.
COPY pyproject.toml constraints.txt ./
RUN touch README.md && pip install --no-cache-dir --root-user-action=ignore -c constraints.txt .
COPY . .
# Our code is found from anywhere, and what lies in a working directory is not.
ENV PYTHONPATH=/opt/slipway PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
RUN python -m compileall -q core engine forges gateway builder runtime supervisor cli
CMD ["slipway", "--help"]
