# Two images from one build, by the classic builder or any other:
#
#     docker build --target server   --tag roomful/server:dev .     # edge, archiver, tools
#     docker build --target operator --tag roomful/operator:dev .
#
# Packages come from whatever index pip is set up for, in the versions and hashes of requirements/.
# Both run as user 10001 on a read-only root file system and write nothing but what is mounted.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source
COPY requirements/build.txt requirements/
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --quiet --require-hashes -r requirements/build.txt
COPY requirements/server.txt requirements/operator.txt requirements/
# Environments without pip: nothing in the image can install anything.
RUN for image in server operator; do \
        python -m venv --without-pip /opt/$image/roomful \
        && /opt/build/bin/pip --python /opt/$image/roomful/bin/python install \
            --quiet --require-hashes --only-binary :all: -r requirements/$image.txt || exit 1; \
    done
COPY pyproject.toml README.md LICENSE ./
COPY services services
COPY operator operator
# Scripts of an environment name its interpreter, so each is built where it will be: /opt/roomful.
RUN /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheels . \
    && for image in server operator; do \
        /opt/build/bin/pip --python /opt/$image/roomful/bin/python install \
            --quiet --no-deps --no-index /wheels/*.whl \
        && sed -i "1s|/opt/$image/roomful/|/opt/roomful/|" /opt/$image/roomful/bin/* || exit 1; \
    done

FROM python:3.13-slim AS base
ENV PATH=/opt/roomful/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin roomful
USER 10001:10001
WORKDIR /

FROM base AS operator
LABEL org.opencontainers.image.title="Roomful operator" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/operator/roomful /opt/roomful
ENTRYPOINT ["python", "-m", "roomful_operator"]

FROM base AS server
LABEL org.opencontainers.image.title="Roomful" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/server/roomful /opt/roomful
EXPOSE 8080
# Settings come from ROOMFUL_*; an image keeps no rooms in itself.
ENV ROOMFUL_STATE_DIR=
ENTRYPOINT ["roomful"]
CMD ["serve"]
