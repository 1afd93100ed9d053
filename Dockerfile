# The image of Mortise: the program, glibc and CA certificates, without a shell. How to run it: docs/packages.md.
FROM docker.io/library/rust:1.95-slim-bookworm AS build
# Cargo's own variables, for a trial build that takes less time: `--build-arg CARGO_PROFILE_RELEASE_OPT_LEVEL=1`.
ARG CARGO_PROFILE_RELEASE_OPT_LEVEL
ARG CARGO_PROFILE_RELEASE_LTO
ARG CARGO_PROFILE_RELEASE_CODEGEN_UNITS
WORKDIR /src
# The dependencies are a layer of their own: it stays valid until one of these files changes. An empty library needs
# all of them. Cargo compares only times: `cargo clean` removes the empty library, so that cargo compiles the real one.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo '//! Empty.' >src/lib.rs \
    && cargo build --release --locked --lib \
    && cargo clean --release --locked --package mortise \
    && rm -r src
# All that .dockerignore leaves. The build needs no database: the type information of each query is in .sqlx.
COPY . .
RUN cargo build --release --locked --bin mortise

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/mortise /usr/bin/mortise
COPY --from=build /src/config/mortise.toml /usr/share/doc/mortise/mortise.toml
COPY --from=build /src/LICENSE /usr/share/doc/mortise/LICENSE
USER 65532:65532
# The image contains no PostgreSQL: set DATABASE_URL or DATABASE_URL_FILE.
ENV MORTISE_LISTEN=0.0.0.0:3000
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["mortise", "healthcheck"]
ENTRYPOINT ["mortise"]
CMD ["serve"]
