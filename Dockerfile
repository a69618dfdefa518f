# The stage `build` can be replaced by a folder (`docker build --build-context build=DIR`), as dev/ does where no registry is
# reachable. The folder must then hold:
#   out/ocibuild                       the static binary of the image's platform, and out/build, a link to it
#   etc/ssl/certs/ca-certificates.crt  the authorities that registries are checked against

FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG BUILDARCH
ARG TARGETARCH
WORKDIR /src
# The toolchain compiles for the other architecture where the image asks for it: faster than emulation.
RUN case "$TARGETARCH" in \
        amd64) echo x86_64-unknown-linux-gnu gcc-x86-64-linux-gnu libc6-dev-amd64-cross x86_64-linux-gnu-gcc ;; \
        arm64) echo aarch64-unknown-linux-gnu gcc-aarch64-linux-gnu libc6-dev-arm64-cross aarch64-linux-gnu-gcc ;; \
        *) echo "no build for architecture $TARGETARCH" >&2; exit 1 ;; \
    esac >/target && \
    read -r target compiler headers linker </target && \
    rustup target add "$target" && \
    if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
        apt-get update && apt-get install -y --no-install-recommends "$compiler" "$headers" && rm -rf /var/lib/apt/lists/*; \
    fi
COPY Cargo.toml Cargo.lock ./
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=ocibuild-target-$TARGETARCH \
    read -r target compiler headers linker </target && \
    if [ "$TARGETARCH" != "$BUILDARCH" ]; then \
        variable=$(echo "$target" | tr a-z- A-Z_) && \
        export "CARGO_TARGET_${variable}_LINKER=$linker" "CC_$(echo "$target" | tr - _)=$linker"; \
    fi && \
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" && \
    install -D "target/$target/release/ocibuild" /out/ocibuild && \
    ln -s ocibuild /out/build

FROM scratch
LABEL org.opencontainers.image.title="ocibuild" \
    org.opencontainers.image.description="A Kubernetes operator that drives OCI image builds as custom resources" \
    org.opencontainers.image.source="https://github.com/ocibuild/ocibuild" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# With `build`, the name that a pipeline's `run: {path: build}` looks for.
COPY --from=build /out/ /usr/bin/
ENV PATH=/usr/bin
# A Concourse task writes to outputs that belong to root; the chart and the build pods name users of their own.
WORKDIR /tmp
WORKDIR /
ENTRYPOINT ["/usr/bin/ocibuild"]
