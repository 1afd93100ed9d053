# The image of Mortise: the program, glibc and CA certificates, without a shell. How to run it: docs/packages.md.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The build needs no database: the type information of each query is committed in .sqlx.
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
